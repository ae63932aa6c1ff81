"""A residual perceptron over the cells of a table, from scratch.

The cells of a row enter one linear layer together, so that all numbers are there at once and
nothing has to be gathered from many tokens: the encoder of SCARF (Bahri et al. 2022,
arXiv:2106.15147, section 4) and the "ResNet" of Gorishniy et al. 2021, arXiv:2106.11959, section
3.2, which is hard to beat on tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amodal.nn.backbones.body import Body
from amodal.nn.backbones.options import read_options

if TYPE_CHECKING:
    from amodal.modalities.table import Table

NORMS = ("batch", "layer")
OUTERMOST = 10.0
"""Deviations from the mean, to which numbers are held: a column that is nearly constant has values
hundreds away, and one of them would decide the statistics of a batch."""


@dataclass(frozen=True)
class MlpOptions:
    """Sizes of the network.

    Attributes:
        width: Of the hidden states.
        blocks: Of two layers each, around a shortcut.
        norm: "batch", or "layer", which does not couple rows.
        layers: Plain layers with ReLU, the first over the cells, in place of blocks; 0 for blocks.
    """

    width: int = 256
    blocks: int = 2
    norm: str = "batch"
    layers: int = 0


def build(library: str, rest: str, modality: Table) -> MlpBody:
    """The network of a spec.

    Args:
        library: mlp.
        rest: Options, see `MlpOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options.
    """
    return MlpBody(modality, read_options(library, rest, MlpOptions, {"norm": NORMS}))


class MlpBody(Body):
    """Rows of cells (N, C), codes of categories and NaN among them -> one token each.

    A missing number adds a learned vector of its column, in place of its mean; so does a missing
    category.

    Args:
        table: Of the field.
        options: Sizes.
    """

    is_scratch = is_one_vector = True
    first: Tensor

    def __init__(self, table: Table, options: MlpOptions):
        super().__init__()
        self.table, self.width = table, options.width
        columns = len(table.columns)
        self.numbers = nn.Linear(columns, options.width)
        self.missing = nn.Linear(columns, options.width, bias=False)
        sizes = torch.tensor(table.num_codes())
        self.codes = nn.Embedding(max(1, int(sizes.sum())), options.width)
        nn.init.normal_(self.codes.weight, std=columns**-0.5)
        self.register_buffer("first", sizes.cumsum(0) - sizes)
        plain: list[nn.Module] = [nn.ReLU()]
        for _ in range(options.layers - 1):
            plain += [nn.Linear(options.width, options.width), nn.ReLU()]
        residual = [Block(options.width, options.norm) for _ in range(options.blocks)]
        self.blocks = nn.Sequential(*(plain if options.layers else residual))

    def example(self) -> Tensor:
        """(1, C), zeros."""
        return torch.zeros(1, len(self.table.columns))

    def forward(self, values_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells -> features (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        x_ND = self.blocks(self.embed(values_NC))
        lengths = torch.ones(len(x_ND), dtype=torch.int64, device=x_ND.device)
        return x_ND, lengths, x_ND.new_zeros(len(x_ND), 3)

    def embed(self, values_NC: Tensor) -> Tensor:
        """Cells -> what enters the first block, (N, width)."""
        absent_NC = values_NC.isnan()
        dtype = self.numbers.weight.dtype
        numeric = torch.tensor(self.table.numeric(), device=values_NC.device)
        number_NC = self.table.standardised(values_NC).nan_to_num().clamp(-OUTERMOST, OUTERMOST)
        number_NC = (number_NC * numeric).to(dtype)
        x_ND: Tensor = self.numbers(number_NC) + self.missing(absent_NC.to(dtype))
        if not self.table.categories:
            return x_ND
        which = (~numeric).nonzero().squeeze(1)
        sizes = torch.tensor(self.table.num_codes(), device=values_NC.device)[which]
        code_NK = values_NC[:, which].nan_to_num().long().clamp(min=0)
        embedded_NKD = self.codes(torch.minimum(code_NK, sizes - 1) + self.first[which])
        x_ND = x_ND + (embedded_NKD * ~absent_NC[:, which].unsqueeze(2)).sum(1)
        return x_ND


class Block(nn.Module):
    """Two layers around a shortcut."""

    def __init__(self, width: int, norm: str):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, width) -> (N, width)."""
        out: Tensor = x_ND + self.body(x_ND)
        return out
