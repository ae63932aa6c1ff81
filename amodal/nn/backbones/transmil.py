"""TransMIL, from scratch: a list of vectors, such as a slide's patches, behind a class token.

Shao, Bian, Chen, Wang, Zhang, Ji and Zhang, NeurIPS 2021, arXiv:2106.00908: two layers of Nystrom
attention, between them positions by convolutions over the vectors laid into a square (PPEG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.core.host import host_copy
from amodal.nn.attention.nystrom import NystromAttention
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.options import read_options
from amodal.nn.backbones.resnet1d import SignalField


@dataclass(frozen=True)
class TransMilOptions:
    """Sizes of the network.

    Attributes:
        width: Of the tokens.
        heads: Of attention.
        landmarks: Of attention; 0 for half the width.
        iterations: Of the pseudoinverse.
        kernel: Of the convolution over values, an odd number.
    """

    width: int = 512
    heads: int = 8
    landmarks: int = 0
    iterations: int = 6
    kernel: int = 33


def build(library: str, rest: str, modality: SignalField) -> TransMilBody:
    """The network of a spec.

    Args:
        library: transmil.
        rest: Options, see `TransMilOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options.
    """
    options = read_options(library, rest, TransMilOptions, {})
    if not options.kernel % 2:
        raise AmodalError(f"transmil:kernel must be an odd number, got {options.kernel}")
    return TransMilBody(modality, options)


class NystromLayer(nn.Module):
    """Nystrom attention of normalised tokens, around a shortcut."""

    def __init__(self, options: TransMilOptions):
        super().__init__()
        self.norm = nn.LayerNorm(options.width)
        self.attention = NystromAttention(
            options.width,
            options.heads,
            options.landmarks or max(1, options.width // 2),
            options.iterations,
            options.kernel,
        )

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        out: Tensor = x_NLD + self.attention(self.norm(x_NLD))
        return out


class SquarePositions(nn.Module):
    """PPEG: each channel is convolved over the square that tokens are laid into, by three kernels,
    and added to itself."""

    def __init__(self, width: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
            for kernel in (7, 5, 3)
        )

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, side^2, D) -> (N, side^2, D)."""
        side = round(x_NLD.shape[1] ** 0.5)
        map_NDHW = x_NLD.transpose(1, 2).unflatten(2, (side, side))
        total = map_NDHW
        for convolution in self.convolutions:
            total = total + convolution(map_NDHW)
        out: Tensor = total.flatten(2).transpose(1, 2)
        return out


class TransMilBody(Body):
    """Lists of vectors -> a class token, then a token for each vector.

    Args:
        modality: Of the field, whose steps are the vectors.
        options: Sizes.
    """

    is_scratch, prefix_tokens = True, 1

    def __init__(self, modality: SignalField, options: TransMilOptions):
        super().__init__()
        self.modality, self.options, self.width = modality, options, options.width
        self.embed = nn.Sequential(nn.Linear(modality.step_width, options.width), nn.ReLU())
        self.token = nn.Parameter(torch.randn(options.width) * 0.02)
        self.first, self.second = NystromLayer(options), NystromLayer(options)
        self.positions = SquarePositions(options.width)
        self.norm = nn.LayerNorm(options.width)

    def example(self) -> Ragged:
        """A list of two vectors, of zeros."""
        none = self.modality.collate([]).flat
        return Ragged(none.new_zeros(2, *none.shape[1:]), torch.tensor([2]))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists -> (T, width), lengths (N,), and positions (T, 3): the class token's is 0, and
        the vectors' are counted from 1."""
        steps_TC, lengths = self.modality.steps(values)
        x_TD = self.embed(steps_TC.to(self.token.dtype))
        x_TD = lists_of_one_length(x_TD, lengths, self._layers)
        number = torch.cat([torch.arange(n + 1) for n in host_copy(lengths).tolist()])
        number = number.to(x_TD.device, x_TD.dtype)
        return x_TD, lengths + 1, torch.stack([number, number * 0, number * 0], 1)

    def _layers(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) -> (N, 1 + L, D)."""
        length = x_NLD.shape[1]
        # the first vectors fill the square up
        missing = (int((length - 1) ** 0.5) + 1) ** 2 - length
        x_NLD = torch.cat([x_NLD, x_NLD[:, :missing]], 1)
        x_NLD = torch.cat([self.token.expand(len(x_NLD), 1, -1), x_NLD], 1)
        x_NLD = self.first(x_NLD)
        x_NLD = torch.cat([x_NLD[:, :1], self.positions(x_NLD[:, 1:])], 1)
        out: Tensor = self.norm(self.second(x_NLD))[:, : 1 + length]
        return out


def lists_of_one_length(
    x_TD: Tensor, lengths_N: Tensor, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply a function of lists of one length to packed lists, without padding.

    Args:
        x_TD: Packed, list after list.
        lengths_N: Of the lists.
        function: (n, L, D) -> (n, L', D').

    Returns:
        The results, packed in the order of the lists.
    """
    lengths = host_copy(lengths_N).tolist()
    if not lengths:  # its parameters still become part of the graph
        nothing = x_TD.new_zeros(1, 1, x_TD.shape[1]) + x_TD.sum()
        return function(nothing).flatten(0, 1)[:0]
    lists = torch.split(x_TD, lengths)
    results: dict[int, Tensor] = {}
    for length in sorted(set(lengths)):
        which = [i for i, n in enumerate(lengths) if n == length]
        results |= dict(zip(which, function(torch.stack([lists[i] for i in which]))))
    return torch.cat([results[i] for i in range(len(lengths))])
