"""A small network of the kind of VGG, over images and spectrograms, from scratch.

As in Dorfer et al., TISMIR 2018, and Carvalho et al. 2023, arXiv:2309.12134, for printed music and
its sound: four blocks of two convolutions of 3 x 3, each with a norm and ELU, and a maximum over 2
x 2 cells; then a convolution of 1 x 1 whose whole map is the one token of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError, Ragged
from amodal.nn.backbones.body import Body, ImageField, ones_like_rows, register_moments
from amodal.nn.backbones.options import read_options

NORMS = ("batch", "group")
GROUPS = 8
MIN_SIDE = 16
"""Cells of a side, of which the last map has one."""


@dataclass(frozen=True)
class VggOptions:
    """Sizes of the network.

    Attributes:
        width: Channels of the first block; the second has twice, the others four times as many.
        out: Channels of the last map.
        norm: "batch", or "group", which does not couple rows.
        rows, columns: Pixels of pictures that keep their aspect, all of which are brought to it.
    """

    width: int = 24
    out: int = 32
    norm: str = "batch"
    rows: int = 0
    columns: int = 0


class SpectralField(Protocol):
    """What the body asks of a field of sound: frames of its spectrogram, and how many there may
    be."""

    @property
    def step_width(self) -> int: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def token_steps(self) -> int: ...
    def steps(self, values: Ragged) -> tuple[Tensor, Tensor]: ...
    def collate(self, values: list[object]) -> Ragged: ...


def build(library: str, rest: str, modality: ImageField | SpectralField) -> VggBody:
    """The network of a spec.

    Args:
        library: vgg.
        rest: Options, see `VggOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, pictures or spectrograms that are too small, and sound
            without a greatest length.
    """
    options = read_options(library, rest, VggOptions, {"norm": NORMS})
    if options.norm == "group" and (options.width % GROUPS or options.out % GROUPS):
        raise AmodalError(
            f"vgg:norm=group needs a width and an out that {GROUPS} groups divide, got "
            f"{options.width} and {options.out}"
        )
    front: Front
    if hasattr(modality, "max_frames"):
        front = Spectrogram(cast(SpectralField, modality))
    elif modality.fit == "native":
        front = NativePicture(cast(NativeField, modality), options.rows, options.columns)
    else:
        front = Picture(modality)
    if (options.rows or options.columns) and not isinstance(front, NativePicture):
        raise AmodalError(
            "vgg:rows and columns are of pictures that keep their aspect: set fit = "
            '"native" for this field, or leave them out'
        )
    if min(front.shape[1:]) < MIN_SIDE:
        raise AmodalError(
            f"vgg halves a map four times, so it needs {MIN_SIDE} cells a side, and this field has "
            f"{front.shape[1]} x {front.shape[2]}: set its size, or mels, hop_ms and max_seconds"
        )
    return VggBody(front, options)


class Front(nn.Module):
    """Values -> maps of one shape.

    Attributes:
        shape: (C, H, W).
        middle: (3,), the position of a value's one token.
    """

    shape: tuple[int, int, int]
    middle: tuple[float, float, float]

    def example(self) -> Tensor | Ragged:
        """One row of values."""
        raise NotImplementedError


class Picture(Front):
    """Images as standardised maps.

    Args:
        modality: Of the field.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: ImageField):
        super().__init__()
        self.shape = modality.channels, modality.size, modality.size
        place = (modality.size / modality.tile - 1) / 2
        self.middle = 0.0, place, place
        register_moments(self, modality.mean or [0.5], modality.std or [0.25])

    def example(self) -> Tensor:
        """(1, C, S, S), zeros."""
        return torch.zeros(1, *self.shape, dtype=self.mean.dtype)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images -> (N, C, S, S)."""
        # a view of a small part is smaller
        return as_large((images_NCHW - self.mean) / self.std, self.shape[1:])


class NativeField(ImageField, Protocol):
    """What the body asks of a field of pictures that keep their aspect."""

    def targets(self, values: Ragged) -> Tensor: ...


class NativePicture(Front):
    """Pictures of one aspect, such as strips of a staff, from lists of their patches.

    Args:
        modality: Of the field, with fit "native".
        rows, columns: Pixels of the maps. Pictures of another size are brought to it.

    Raises:
        AmodalError: Without both.
    """

    def __init__(self, modality: NativeField, rows: int, columns: int):
        super().__init__()
        if not rows or not columns:
            raise AmodalError(
                "vgg reads pictures of one shape, and this field keeps each picture's aspect: say "
                "the shape in pixels, as in vgg:rows=80,columns=100, or set fit = "
                '"stretch" or "pad" for the field'
            )
        self.modality, self.shape = modality, (modality.channels, rows, columns)
        place = (modality.size / modality.tile - 1) / 2
        self.middle = 0.0, place, place

    def example(self) -> Ragged:
        """A picture of one patch, of zeros."""
        numbers = 2 + self.modality.channels * self.modality.tile**2
        return Ragged(torch.zeros(1, numbers), torch.ones(1, dtype=torch.int64))

    def forward(self, values: Ragged) -> Tensor:
        """N lists of patches in reading order, behind their positions -> (N, C, rows, columns)."""
        side, lists = self.modality.tile, []
        pixels = self.modality.targets(values)
        heights, lengths = values.flat[:, 0], values.lengths.tolist()
        for y, x in zip(heights.split(lengths), pixels.split(lengths)):
            across = int((y == y[0]).sum())
            tiles = x.view(-1, across, self.shape[0], side, side)
            map_CHW = tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
            lists.append(as_large(map_CHW[None], self.shape[1:]))
        return torch.cat(lists) if lists else pixels.new_zeros(0, *self.shape)


def as_large(maps_NCHW: Tensor, shape: tuple[int, int]) -> Tensor:
    """The maps at another size."""
    if maps_NCHW.shape[2:] == shape:
        return maps_NCHW
    return interpolate(maps_NCHW, shape, mode="bicubic", antialias=True)


class Spectrogram(Front):
    """Clips as standardised spectrograms of one length: cut, or with frames of zeros at the end.

    Args:
        modality: Of the field.
    """

    def __init__(self, modality: SpectralField):
        super().__init__()
        if modality.step_width < 2 or not modality.max_frames:
            raise AmodalError(
                'vgg reads spectrograms of one length: set features = "logmel" and max_seconds for '
                "this field of sound"
            )
        self.modality = modality
        self.shape = 1, modality.step_width, modality.max_frames
        self.middle = (modality.max_frames / modality.token_steps - 1) / 2, 0.0, 0.0

    def example(self) -> Ragged:
        """A clip of some samples, of zeros."""
        none = self.modality.collate([]).flat
        return Ragged(none.new_zeros(64), torch.tensor([64]))

    def forward(self, waves: Ragged) -> Tensor:
        """N clips -> (N, 1, bands, frames)."""
        frames_TC, lengths = self.modality.steps(waves)
        _, bands, most = self.shape
        step = torch.arange(most, device=frames_TC.device)
        lengths = lengths.to(frames_TC.device)
        start = lengths.cumsum(0) - lengths
        inside_NF = step < lengths[:, None]
        x_NFC = frames_TC.new_zeros(len(lengths), most, bands)
        x_NFC[inside_NF] = frames_TC[(start[:, None] + step)[inside_NF]]
        return x_NFC.transpose(1, 2).unsqueeze(1)


class VggBody(Body):
    """Images or clips -> one token each, the last map.

    Args:
        front: Makes maps of one shape.
        options: Sizes.
    """

    is_scratch = True

    def __init__(self, front: Front, options: VggOptions):
        super().__init__()
        self.front = front
        channels, height, width = front.shape
        widths = [options.width * factor for factor in (1, 2, 4, 4)]
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths):
            for width_in in (before, after):
                layers += [convolution(width_in, after, 3), norm_of(options.norm, after), nn.ELU()]
            layers.append(nn.MaxPool2d(2))
        last = [convolution(widths[-1], options.out, 1), norm_of(options.norm, options.out)]
        self.layers = nn.Sequential(*layers, *last)
        self.width = options.out * (height // 16) * (width // 16)

    def example(self) -> Tensor | Ragged:
        """See `Body.example`."""
        return self.front.example()

    def forward(self, values: Tensor | Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N values -> features (N, width), lengths (N,), positions (N, 3)."""
        maps = self.front(values).to(cast(nn.Conv2d, self.layers[0]).weight.dtype)
        features: Tensor = self.layers(maps).flatten(1)
        place = features.new_tensor(self.front.middle)
        return features, ones_like_rows(features), place.expand(len(features), -1)


def convolution(width_in: int, width: int, kernel: int) -> nn.Conv2d:
    """A convolution without a bias that begins as He et al. 2015 for linear units."""
    layer = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    return layer


def norm_of(kind: str, width: int) -> nn.Module:
    """The normalisation of a map of `width` channels."""
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(GROUPS, width)
