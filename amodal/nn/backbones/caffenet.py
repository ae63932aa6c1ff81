"""CaffeNet, the network of many papers on pretext tasks: five convolutions and two wide layers.

Krizhevsky et al. 2012 with the pooling before the normalisation, as Caffe's reference model has it.
From scratch, for pictures of 67 pixels and more; the papers' have 227. Weights begin as Caffe's; in
a narrower network they are larger, so that layers pass on as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError
from amodal.nn.backbones.body import Body, ImageField, ones_like_rows, register_moments
from amodal.nn.backbones.options import read_options

MIN_SIDE = 67
"""Pixels, of which the last map has one cell."""


@dataclass(frozen=True)
class CaffenetOptions:
    """Sizes of the network.

    Attributes:
        width: Of the two wide layers (fc6 and fc7).
        channels: Of the last convolution; the others have 3/8, 1, 3/2 and 3/2 of it.
    """

    width: int = 4096
    channels: int = 256


def build(library: str, rest: str, modality: ImageField) -> CaffenetBody:
    """The network of a spec.

    Args:
        library: caffenet.
        rest: Options, see `CaffenetOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, and pictures that are too small.
    """
    options = read_options(library, rest, CaffenetOptions, {})
    if options.channels % 16:
        raise AmodalError(
            f"caffenet:channels must be a multiple of 16, got {options.channels}: three of its "
            "convolutions are in two groups"
        )
    if modality.fit == "native" or modality.size < MIN_SIDE:
        raise AmodalError(
            f"caffenet reads squares of at least {MIN_SIDE} pixels (227 in the papers), not of "
            f"{modality.size}: set size and fit of the field, or --resolution 227; of smaller "
            "pictures take convnet"
        )
    return CaffenetBody(modality, options)


class CaffenetBody(Body):
    """Images (N, C, S, S) -> one token each, the last wide layer.

    Dropout, of half of both wide layers in the papers, is at rest until a method lets it draw by
    row (`amodal.nn.hidden_dropout`).

    Args:
        modality: Of the field.
        options: Sizes.
    """

    is_scratch = True
    mean: Tensor
    std: Tensor

    def __init__(self, modality: ImageField, options: CaffenetOptions):
        super().__init__()
        self.channels, self.side = modality.channels, modality.size
        self.middle = (modality.size / modality.tile - 1) / 2
        register_moments(self, modality.mean or [0.5], modality.std or [0.25])
        c, std = options.channels, 0.01 * (256 / options.channels) ** 0.5
        self.maps = nn.Sequential(
            convolution(self.channels, 3 * c // 8, 11, stride=4, bias=0.0, std=0.01),
            nn.ReLU(),
            *pooled_and_normalised(),
            convolution(3 * c // 8, c, 5, padding=2, groups=2, bias=1.0, std=std),
            nn.ReLU(),
            *pooled_and_normalised(),
            convolution(c, 3 * c // 2, 3, padding=1, bias=0.0, std=std),
            nn.ReLU(),
            convolution(3 * c // 2, 3 * c // 2, 3, padding=1, groups=2, bias=1.0, std=std),
            nn.ReLU(),
            convolution(3 * c // 2, c, 3, padding=1, groups=2, bias=1.0, std=std),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        with torch.no_grad():
            cells = self.maps(self.example()).flatten(1).shape[1]
        self.wide = nn.Sequential(
            wide_layer(cells, options.width, std=0.005 * (9216 / cells) ** 0.5),
            nn.ReLU(),
            nn.Dropout(0.5),
            wide_layer(options.width, options.width, std=0.005 * (4096 / options.width) ** 0.5),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.width = options.width

    def example(self) -> Tensor:
        """(1, C, S, S), zeros."""
        return torch.zeros(1, self.channels, self.side, self.side, dtype=self.mean.dtype)

    def scaled(self, images_NCHW: Tensor) -> Tensor:
        """Images (N, C, S, S) as the first layer reads them."""
        x_NCHW = (images_NCHW - self.mean) / self.std
        if x_NCHW.shape[2:] != (self.side, self.side):  # a view of a small part
            x_NCHW = interpolate(x_NCHW, (self.side, self.side), mode="bicubic", antialias=True)
        return x_NCHW

    def hidden_states(self, values: Tensor) -> list[Tensor]:
        """See `Layered`: five maps, each after its maxima where it has them, and fc6 and fc7."""
        states: list[Tensor] = []
        x = self.scaled(values)
        for part in self.maps:
            x = part(x)
            if isinstance(part, nn.MaxPool2d):  # in place of the map that it is made of
                states[-1] = x.mean((2, 3))
            elif isinstance(part, nn.ReLU):
                states.append(x.mean((2, 3)))
        x = x.flatten(1)
        for part in self.wide:
            x = part(x)
            if isinstance(part, nn.ReLU):
                states.append(x)
        return states

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> features (N, width), lengths (N,), positions (N, 3)."""
        features = self.wide(self.maps(self.scaled(images_NCHW)).flatten(1))
        place = features.new_tensor([0.0, self.middle, self.middle])
        return features, ones_like_rows(features), place.expand(len(features), -1)


def convolution(
    width_in: int,
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: float,
    std: float,
) -> nn.Conv2d:
    """A convolution that begins with weights N(0, std) and one number as all biases."""
    layer = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups)
    nn.init.normal_(layer.weight, std=std)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # it has one
    return layer


def wide_layer(width_in: int, width: int, std: float) -> nn.Linear:
    """A linear layer that begins with weights N(0, std) and biases of 1."""
    layer = nn.Linear(width_in, width)
    nn.init.normal_(layer.weight, std=std)
    nn.init.ones_(layer.bias)
    return layer


def pooled_and_normalised() -> tuple[nn.Module, nn.Module]:
    """Overlapping maxima, and each cell divided by what five neighbouring channels have."""
    return nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
