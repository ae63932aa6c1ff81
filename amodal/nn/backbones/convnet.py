"""A small residual network for small images, from scratch.

The blocks of He et al. 2016, arXiv:1512.03385, section 4.2: the first convolution is 3 x 3 and
keeps the size, so that an image of 28 pixels still has a map of 7 x 7 after three stages. timm has
no such stem; for images of 64 pixels and more its models are the better choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.backbones.body import Body, ImageField, map_tokens, register_moments
from amodal.nn.backbones.options import read_options

NORMS = ("batch", "group")
GROUPS = 8
RESNETS: dict[str, tuple[int, ...]] = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
}
"""Layers -> blocks of each stage; from 50 on they are bottlenecks. Table 1 of the paper."""


@dataclass(frozen=True)
class ConvnetOptions:
    """Sizes of the network.

    Attributes:
        width: Channels of the first stage; each later one has twice as many.
        stages: Each but the first halves the map.
        blocks: Of a stage, two convolutions each.
        stem: Stride of the first convolution.
        norm: "batch", or "group", which does not couple rows.
        layers: "18", "34", "50" or "101": the stages and blocks of that ResNet, in place of
            `stages` and `blocks`; with width=64 it is that ResNet for pictures of 32 pixels.
    """

    width: int = 32
    stages: int = 3
    blocks: int = 1
    stem: int = 1
    norm: str = "batch"
    layers: str = "none"

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return RESNETS.get(self.layers, (self.blocks,) * self.stages)

    @property
    def expansion(self) -> int:
        """How many times wider than its inner convolution a block is: 4 for a bottleneck."""
        return 4 if self.layers in ("50", "101") else 1


def build(library: str, rest: str, modality: ImageField) -> ConvnetBody:
    """The network of a spec.

    Args:
        library: convnet.
        rest: Options, see `ConvnetOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, and a width that groups do not divide.
    """
    words = {"norm": NORMS, "layers": ("none", *RESNETS)}
    options = read_options(library, rest, ConvnetOptions, words)
    if options.norm == "group" and options.width % GROUPS:
        raise AmodalError(
            f"convnet:norm=group needs a width that {GROUPS} groups divide, got {options.width}"
        )
    return ConvnetBody(modality, options)


class ConvnetBody(Body):
    """Images (N, C, S, S) of any number of channels -> the cells of the last map.

    Args:
        modality: Of the field.
        options: Sizes.
    """

    is_scratch = True
    mean: Tensor
    std: Tensor

    def __init__(self, modality: ImageField, options: ConvnetOptions):
        super().__init__()
        self.channels, self.side = modality.channels, modality.size
        self.grid = modality.size / modality.tile
        register_moments(self, modality.mean or [0.5], modality.std or [0.25])
        widths = [options.width * 2**i for i in range(len(options.depths))]
        self.width = widths[-1] * options.expansion
        self.stem = nn.Sequential(
            nn.Conv2d(self.channels, widths[0], 3, options.stem, padding=1, bias=False),
            norm_of(options.norm, widths[0]),
            nn.ReLU(),
        )
        blocks, before = [], widths[0]
        kind = BasicBlock if options.expansion == 1 else Bottleneck
        for stage, (width, depth) in enumerate(zip(widths, options.depths)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(kind(before, width, stride, options.norm))
                before = width * options.expansion
        self.blocks = nn.Sequential(*blocks)

    def example(self) -> Tensor:
        """(1, C, S, S), zeros."""
        return torch.zeros(1, self.channels, self.side, self.side, dtype=self.mean.dtype)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> features of cells (T, width), lengths (N,), positions (T, 3)."""
        maps = self.blocks(self.stem((images_NCHW - self.mean) / self.std))
        return map_tokens(maps.permute(0, 2, 3, 1), self.grid)


class Residual(nn.Module):
    """Convolutions around a shortcut, which is a convolution of 1 x 1 where the shape changes.

    Args:
        body: (N, width_in, H, W) -> (N, width, H / stride, W / stride).
        width_in, width, stride, norm: Of the block.
    """

    def __init__(self, body: nn.Module, width_in: int, width: int, stride: int, norm: str):
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential()
        if stride > 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), norm_of(norm, width)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width, H / stride, W / stride)."""
        out: Tensor = (self.body(x_NCHW) + self.shortcut(x_NCHW)).relu()
        return out


class BasicBlock(Residual):
    """Two convolutions of 3 x 3."""

    def __init__(self, width_in: int, width: int, stride: int, norm: str):
        body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False),
            norm_of(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm_of(norm, width),
        )
        super().__init__(body, width_in, width, stride, norm)


class Bottleneck(Residual):
    """A convolution of 3 x 3 between two of 1 x 1, the last of which is 4 times as wide."""

    def __init__(self, width_in: int, width: int, stride: int, norm: str):
        body = nn.Sequential(
            nn.Conv2d(width_in, width, 1, bias=False),
            norm_of(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            norm_of(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            norm_of(norm, 4 * width),
        )
        super().__init__(body, width_in, 4 * width, stride, norm)


def norm_of(kind: str, width: int) -> nn.Module:
    """The normalisation of a map of `width` channels."""
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(GROUPS, width)
