"""The encoder of an Informer for series of a bounded length, from scratch.

Zhou et al., AAAI 2021, arXiv:2012.07436, without distilling between layers, as in AstroM3 (Rizhko
and Bloom 2024, arXiv:2411.08842): a circular convolution over steps, sines of their places, layers
of ProbSparse attention with norms behind each half. The states of all steps, side by side, are the
one vector of a series.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Ragged
from amodal.nn.attention.prob_sparse import ProbSparseAttention
from amodal.nn.backbones.body import Body, ones_like_rows
from amodal.nn.backbones.fixed_length import at_length
from amodal.nn.backbones.options import read_options
from amodal.nn.backbones.resnet1d import SignalField


@dataclass(frozen=True)
class InformerOptions:
    """Sizes of the network.

    Attributes:
        length: Steps that are read.
        width: Of the state of a step.
        layers: How many.
        heads: Of attention.
        hidden: Width of a layer's perceptron.
        factor: Of the number of queries that are answered.
    """

    length: int = 200
    width: int = 128
    layers: int = 8
    heads: int = 4
    hidden: int = 512
    factor: int = 1


def build(library: str, rest: str, modality: SignalField) -> InformerBody:
    """The network of a spec.

    Args:
        library: informer.
        rest: Options, see `InformerOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options.
    """
    return InformerBody(modality, read_options(library, rest, InformerOptions, {}))


class InformerLayer(nn.Module):
    """ProbSparse attention and a perceptron, each around a shortcut and before a norm."""

    def __init__(self, options: InformerOptions, seed: int):
        super().__init__()
        width = options.width
        self.attention = ProbSparseAttention(width, options.heads, options.factor, seed)
        self.up, self.down = nn.Linear(width, options.hidden), nn.Linear(options.hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        x_NLD = self.norm1(x_NLD + self.attention(x_NLD))
        out: Tensor = self.norm2(x_NLD + self.down(nn.functional.gelu(self.up(x_NLD))))
        return out


class InformerBody(Body):
    """Series -> the states of their steps, end to end, zeros where there is no step.

    Args:
        modality: Of the field.
        options: Sizes.
    """

    is_scratch = is_one_vector = True
    place: Tensor

    def __init__(self, modality: SignalField, options: InformerOptions):
        super().__init__()
        self.modality, self.options = modality, options
        self.width = options.length * options.width
        self.embed = nn.Conv1d(
            modality.step_width,
            options.width,
            3,
            padding=1,
            padding_mode="circular",
            bias=False,
        )
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="leaky_relu")
        self.register_buffer("place", sines(options.length, options.width), persistent=False)
        self.layers = nn.ModuleList(InformerLayer(options, i) for i in range(options.layers))
        self.norm = nn.LayerNorm(options.width)

    def example(self) -> Ragged:
        """A series of one step, of zeros."""
        none = self.modality.collate([]).flat
        return Ragged(none.new_zeros(1, *none.shape[1:]), torch.tensor([1]))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N series -> (N, length * width), lengths (N,), all 1, positions (N, 3), all 0."""
        x_NLC, inside_NL = at_length(self.modality, values, self.options.length)
        x_NCL = x_NLC.to(self.embed.weight.dtype).transpose(1, 2)
        x_NLD = self.embed(x_NCL).transpose(1, 2) + self.place.to(x_NCL.dtype)
        for layer in self.layers:
            x_NLD = layer(x_NLD)
        x_ND = (self.norm(x_NLD) * inside_NL.unsqueeze(2)).flatten(1)
        return x_ND, ones_like_rows(x_ND), x_ND.new_zeros(len(x_ND), 3)


def sines(length: int, width: int) -> Tensor:
    """(length, width): sines of places at even dimensions, cosines at odd ones (Vaswani et al.
    2017, section 3.5)."""
    pair = torch.arange(width) // 2
    angle = torch.arange(length)[:, None] / 10_000 ** (2 * pair / width)
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
