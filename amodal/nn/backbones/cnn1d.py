"""A plain convolutional network over series of a bounded length, from scratch.

GalSpecNet (Wu et al. 2024, MNRAS 527, 1163) as AstroM3 has it (Rizhko and Bloom 2024,
arXiv:2411.08842): convolutions without padding, ReLU, and a maximum over steps behind each but the
last. All that is left of a spectrum, side by side, is its one vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.nn.backbones.body import Body, ones_like_rows
from amodal.nn.backbones.fixed_length import at_length
from amodal.nn.backbones.options import read_options
from amodal.nn.backbones.resnet1d import SignalField


@dataclass(frozen=True)
class Cnn1dOptions:
    """Sizes of the network.

    Attributes:
        length: Steps that are read.
        width: Channels of the first two convolutions; the last two have half of it.
        kernel: Steps of a convolution.
        pool: Steps of a maximum.
    """

    length: int = 2575
    width: int = 64
    kernel: int = 3
    pool: int = 4


def build(library: str, rest: str, modality: SignalField) -> Cnn1dBody:
    """The network of a spec.

    Args:
        library: cnn1d.
        rest: Options, see `Cnn1dOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, and a length of which nothing is left.
    """
    return Cnn1dBody(modality, read_options(library, rest, Cnn1dOptions, {}))


class Cnn1dBody(Body):
    """Series -> what four convolutions leave of them.

    Args:
        modality: Of the field.
        options: Sizes.

    Raises:
        AmodalError: For a length of which nothing is left.
    """

    is_scratch = is_one_vector = True

    def __init__(self, modality: SignalField, options: Cnn1dOptions):
        super().__init__()
        self.modality, self.options = modality, options
        half = max(1, options.width // 2)
        widths = (modality.step_width, options.width, options.width, half, half)
        parts: list[nn.Module] = []
        left = options.length
        for i in range(4):
            parts += [nn.Conv1d(widths[i], widths[i + 1], options.kernel), nn.ReLU()]
            left -= options.kernel - 1
            if i < 3:
                parts.append(nn.MaxPool1d(options.pool))
                left //= options.pool
        if left < 1:
            raise AmodalError(
                f"cnn1d:length={options.length} leaves nothing behind four convolutions of "
                f"{options.kernel} steps and maxima of {options.pool}; take a larger length, or "
                "smaller kernel and pool"
            )
        self.layers, self.width = nn.Sequential(*parts), left * half

    def example(self) -> Ragged:
        """A series of one step, of zeros."""
        none = self.modality.collate([]).flat
        return Ragged(none.new_zeros(1, *none.shape[1:]), torch.tensor([1]))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N series -> (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        x_NLC, _ = at_length(self.modality, values, self.options.length)
        dtype = next(self.layers.parameters()).dtype
        x_ND = self.layers(x_NLC.to(dtype).transpose(1, 2)).flatten(1)
        return x_ND, ones_like_rows(x_ND), x_ND.new_zeros(len(x_ND), 3)
