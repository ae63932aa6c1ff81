"""The encoder of AMDIM: a residual network over images whose receptive fields are known and small.

Bachman, Hjelm and Buchwalter 2019, arXiv:1906.00910, section 3. Convolutions have no padding, so
that a cell of the map of 7 x 7 sees its own part of the image alone, a cell of 5 x 5 a larger one,
and the last cell everything. `amdim` (the method) compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from amodal.core import AmodalError
from amodal.nn.backbones.body import ImageField, MultiScaleBody, register_moments
from amodal.nn.backbones.options import read_options

NORMS = ("last", "batch", "none")
SIDES: dict[int, tuple[tuple[int, int], ...]] = {
    32: ((1, 1), (4, 2), (2, 2)),
    64: ((4, 2), (4, 2), (2, 2)),
    128: ((4, 2), (4, 2), (2, 2)),
}
"""Side of an image -> (kernel, stride) of the blocks before the map of 7 x 7; 128 is halved."""


@dataclass(frozen=True)
class AmdimOptions:
    """Sizes of the network.

    Attributes:
        width: Channels of the first convolution (ndf); blocks double them.
        depth: Layers of a block.
        out: Channels of the last cell (n_rkhs).
        norm: "last", of the output alone; "batch", of every layer too; or "none".
    """

    width: int = 64
    depth: int = 3
    out: int = 512
    norm: str = "last"


def build(library: str, rest: str, modality: ImageField) -> AmdimBody:
    """The network of a spec.

    Args:
        library: amdim.
        rest: Options, see `AmdimOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, and a side that the network is not for.
    """
    return AmdimBody(modality, read_options(library, rest, AmdimOptions, {"norm": NORMS}))


class AmdimBody(MultiScaleBody):
    """Images (N, C, S, S) of 32, 64 or 128 pixels -> one token each, and maps of smaller fields.

    Args:
        modality: Of the field.
        options: Sizes.

    Raises:
        AmodalError: For another side.
    """

    is_scratch = True
    mean: Tensor
    std: Tensor

    def __init__(self, modality: ImageField, options: AmdimOptions):
        super().__init__()
        if modality.fit == "native" or modality.size not in SIDES:
            raise AmodalError(
                f"amdim reads squares of {', '.join(map(str, SIDES))} pixels, from which its "
                f"convolutions without padding make maps of 7 x 7 and 5 x 5, not of "
                f"{modality.size}: set size and fit of the field, or --resolution 32"
            )
        self.channels, self.side = modality.channels, modality.size
        self.middle = (modality.size / modality.tile - 1) / 2
        register_moments(self, modality.mean or [0.5], modality.std or [0.25])
        every = options.norm == "batch"
        self.stem = nn.Sequential(*stem(self.channels, options.width, modality.size))
        width, blocks = options.width, list[nn.Module]()
        for kernel, stride in SIDES[modality.size]:
            # of 32 pixels the first layer changes nothing but where it looks
            grown, depth = (width, 1) if kernel == 1 else (2 * width, options.depth)
            blocks.append(block(width, grown, kernel, stride, depth, every))
            width = grown
        self.seven = nn.Sequential(*blocks, *([nn.BatchNorm2d(width)] if every else []))
        self.five = block(width, width, 3, 1, options.depth, every)
        last = [nn.BatchNorm2d(options.out)] if options.norm != "none" else []
        self.one = nn.Sequential(
            block(width, width, 3, 1, options.depth, every),
            Layer(width, options.out, 3, 1, every),
            *last,
        )
        self.width = options.out
        self.scale_widths = {"regions": width, "patches": width}

    def example(self) -> Tensor:
        """(1, C, S, S), zeros."""
        return torch.zeros(1, self.channels, self.side, self.side, dtype=self.mean.dtype)

    def at_scales(self, images_NCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `MultiScaleBody.at_scales`: `regions` are the 5 x 5 cells, `patches` the 7 x 7."""
        x_NCHW = (images_NCHW - self.mean) / self.std
        if x_NCHW.shape[2:] != (self.side, self.side):  # a view of a small part
            x_NCHW = interpolate(x_NCHW, (self.side, self.side), mode="bicubic", antialias=True)
        seven = self.seven(self.stem(x_NCHW))
        five = self.five(seven)
        maps = {"regions": five, "patches": seven}
        return self.one(five).flatten(1), {k: m.flatten(2).transpose(1, 2) for k, m in maps.items()}

    def position(self, one_ND: Tensor) -> Tensor:
        """(N, 3), the middle of the image."""
        place: Tensor = one_ND.new_tensor([0.0, self.middle, self.middle])
        return place.expand(len(one_ND), -1)


def stem(channels: int, width: int, side: int) -> Iterator[nn.Module]:
    """The first convolutions."""
    if side == 128:
        yield nn.Conv2d(channels, width, 5, 2, padding=2, padding_mode="reflect")
        yield nn.ReLU()
        channels = width
    yield nn.Conv2d(channels, width, 3)
    yield nn.ReLU()


def block(width_in: int, width: int, kernel: int, stride: int, depth: int, norm: bool) -> nn.Module:
    """One layer that looks around itself, and others of 1 x 1."""
    rest = (Layer(width, width, 1, 1, norm) for _ in range(depth - 1))
    return nn.Sequential(Layer(width_in, width, kernel, stride, norm), *rest)


class Layer(nn.Module):
    """A convolution, one of 1 x 1 that begins at zero, and around both the mean of the same cells.

    Channels that are not there before are zeros; where there are fewer, a convolution is the
    shortcut.
    """

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, norm: bool):
        super().__init__()
        self.kernel, self.stride, self.more = kernel, stride, width - width_in
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, kernel, stride, bias=False),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
        )
        nn.init.zeros_(self.body[3].weight)  # type: ignore[arg-type]  # a tensor
        narrower = width < width_in
        self.shortcut = nn.Conv2d(width_in, width, kernel, stride) if narrower else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width, (H - kernel) / stride + 1, …)."""
        if self.shortcut is not None:
            around: Tensor = self.shortcut(x_NCHW)
        else:
            around = pad(avg_pool2d(x_NCHW, self.kernel, self.stride), (0, 0, 0, 0, 0, self.more))
        out: Tensor = self.body(x_NCHW) + around
        return out
