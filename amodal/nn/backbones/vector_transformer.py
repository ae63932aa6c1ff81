"""A transformer over one vector of a table's row, whose tokens are its heads, from scratch.

The encoder of expressed genes in MIRROR (Wang et al. 2025, arXiv:2503.00374): thousands of cells
enter a perceptron together, and two blocks refine the one vector that it makes. Attention in them
is between the heads of that vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import AmodalError
from amodal.nn.backbones.body import Body, ones_like_rows
from amodal.nn.backbones.mlp import OUTERMOST
from amodal.nn.backbones.options import read_options

if TYPE_CHECKING:
    from amodal.modalities.table import Table


@dataclass(frozen=True)
class VectorOptions:
    """Sizes of the network.

    Attributes:
        width: Of the vector.
        blocks: How many.
        heads: Of attention, which is between them; they divide the width.
        ratio: Hidden width of a block's perceptron, times the width.
    """

    width: int = 768
    blocks: int = 2
    heads: int = 12
    ratio: int = 4


def build(library: str, rest: str, modality: Table) -> VectorBody:
    """The network of a spec.

    Args:
        library: vector_transformer.
        rest: Options, see `VectorOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options.
    """
    options = read_options(library, rest, VectorOptions, {})
    if options.width % options.heads:
        raise AmodalError(
            f"vector_transformer: {options.heads} heads do not divide a width of {options.width}"
        )
    return VectorBody(modality, options)


class VectorBlock(nn.Module):
    """A block of a transformer over (N, D), where attention is between the heads of each vector.

    Args:
        width: D.
        heads: They divide D.
        ratio: Hidden width of the perceptron, times D.
    """

    def __init__(self, width: int, heads: int, ratio: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        q, k, v = self.qkv(self.norm1(x_ND)).unflatten(1, (3, self.heads, -1)).unbind(1)
        # a head is a token of D / heads dimensions; the result is laid out dimension by dimension
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)
        x_ND = x_ND + self.out(mixed)
        out: Tensor = x_ND + self.mlp(self.norm2(x_ND))
        return out


class VectorBody(Body):
    """Rows of cells (N, C), codes of categories and NaN among them -> one token each.

    A cell enters as a number in deviations from its column's mean, a category as one of its codes;
    what is missing is zero.

    Args:
        table: Of the field.
        options: Sizes.
    """

    is_scratch = is_one_vector = True

    def __init__(self, table: Table, options: VectorOptions):
        super().__init__()
        self.table, self.width, width = table, options.width, options.width
        inputs = int(sum(table.numeric())) + sum(table.num_codes())
        self.embed = nn.Sequential(
            nn.Linear(inputs, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width, eps=1e-6),
            nn.Linear(2 * width, width),
        )
        self.place = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.Sequential(
            *(VectorBlock(width, options.heads, options.ratio) for _ in range(options.blocks))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def example(self) -> Tensor:
        """(1, C), zeros."""
        return torch.zeros(1, len(self.table.columns))

    def forward(self, values_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells -> features (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        x_ND = self.embed(self.cells(values_NC).to(self.place.dtype)) + self.place
        x_ND = self.norm(self.blocks(x_ND))
        return x_ND, ones_like_rows(x_ND), x_ND.new_zeros(len(x_ND), 3)

    def cells(self, values_NC: Tensor) -> Tensor:
        """(N, inputs): numbers in deviations, then one entry for each code of each category."""
        numeric = torch.tensor(self.table.numeric(), device=values_NC.device)
        numbers = self.table.standardised(values_NC)[:, numeric]
        parts = [numbers.nan_to_num().clamp(-OUTERMOST, OUTERMOST)]
        for column, size in enumerate(self.table.num_codes()):
            if size:
                code_N = values_NC[:, column : column + 1]
                parts.append((code_N == torch.arange(size, device=code_N.device)).to(numbers.dtype))
        return torch.cat(parts, 1)
