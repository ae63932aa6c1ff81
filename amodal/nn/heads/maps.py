"""Layers for dense prediction on maps (N, C, H, W).

Valada, Mohan and Burgard 2020, arXiv:1808.03833. Their BatchNorm couples rows, so a method calls
these layers in `losses`, where it sees the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class MapNorm(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics for a batch with one value a channel, or none."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.training and x_NCHW.numel() < 2 * x_NCHW.shape[1]:
            assert self.running_mean is not None and self.running_var is not None
            scale = torch.rsqrt(self.running_var + self.eps) * self.weight
            return (x_NCHW - self.running_mean[:, None, None]) * scale[:, None, None] + self.bias[
                :, None, None
            ]
        return super().forward(x_NCHW)


def conv(
    width_in: int, width: int, side: int = 1, *, rate: int = 1, act: bool = True
) -> nn.Sequential:
    """A convolution that keeps the size, BatchNorm and ReLU.

    Args:
        width_in, width: Channels.
        side: Of the kernel.
        rate: Dilation of the kernel.
        act: False leaves ReLU out.
    """
    steps = [
        nn.Conv2d(width_in, width, side, padding=side // 2 * rate, dilation=rate, bias=False),
        MapNorm(width),
    ]
    return nn.Sequential(*steps, *([nn.ReLU()] if act else []))


class AtrousPyramid(nn.Module):
    """Efficient atrous spatial pyramid pooling, eASPP (section 3.3).

    A 1x1 convolution, one atrous branch for each rate, and the mean of the map, side by side and
    mixed. An atrous branch narrows to a quarter, has two dilated convolutions, and widens again.

    Args:
        width_in, width: Channels.
        rates: Dilations.
    """

    def __init__(self, width_in: int, width: int, rates: Sequence[int] = (3, 6, 12)):
        super().__init__()
        thin = max(width // 4, 1)
        around = [
            nn.Sequential(
                conv(width_in, thin),
                conv(thin, thin, 3, rate=r),
                conv(thin, thin, 3, rate=r),
                conv(thin, width),
            )
            for r in rates
        ]
        self.branches = nn.ModuleList([conv(width_in, width), *around])
        self.whole = conv(width_in, width)
        self.mix = conv((2 + len(rates)) * width, width, act=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width, H, W)."""
        whole = self.whole(x_NCHW.mean((2, 3), keepdim=True)).expand(-1, -1, *x_NCHW.shape[2:])
        out: Tensor = self.mix(torch.cat([*(branch(x_NCHW) for branch in self.branches), whole], 1))
        return out


class GatedFusion(nn.Module):
    """The SSMA block (section 4.1, eq. 8 to 11), for any number of maps of one size.

    A bottleneck on all maps gates each channel and place of each map, and a convolution mixes them.

    Args:
        width: C of each map.
        maps: How many.
        squeeze: eta, how many times narrower the bottleneck is than all maps.
        out: Channels of the result; C unless given.
        side: Of the last convolution's kernel.
        norm: BatchNorm after it.
        gated: False is plain concatenation.
    """

    def __init__(
        self,
        width: int,
        maps: int,
        *,
        squeeze: int = 16,
        out: int = 0,
        side: int = 1,
        norm: bool = True,
        gated: bool = True,
    ):
        super().__init__()
        whole, out = width * maps, out or width
        thin = max(whole // squeeze, 1)
        gate = (
            nn.Conv2d(whole, thin, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(thin, whole, 3, padding=1),
            nn.Sigmoid(),
        )
        self.gate = nn.Sequential(*gate) if gated else None
        self.mix = (
            conv(whole, out, side, act=False)
            if norm
            else nn.Conv2d(whole, out, side, padding=side // 2)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, H, W) -> (N, out, H, W)."""
        x = torch.cat(list(maps), 1)
        out: Tensor = self.mix(x if self.gate is None else self.gate(x) * x)
        return out

    def gates(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, maps, H, W): the mean gate of each map over its channels; ones without gates."""
        x = torch.cat(list(maps), 1)
        open_ = torch.ones_like(x) if self.gate is None else self.gate(x)
        out: Tensor = open_.unflatten(1, (len(maps), -1)).mean(2)
        return out


class Up(nn.Module):
    """Twice the size, a skip of finer detail, then two convolutions (section 4.2, eq. 12 and 13).

    Each channel of the skip is weighed by the mean of the whole map.
    """

    def __init__(self, width: int, skip: int):
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, 2, padding=1, bias=False), MapNorm(width)
        )
        self.skip_gate = conv(width, skip)
        self.mix = nn.Sequential(conv(width + skip, width, 3), conv(width, width, 3))

    def forward(self, x_NCHW: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The result, and the map before the skip came in, for deep supervision."""
        x = self.up(x_NCHW)
        weight = self.skip_gate(x.mean((2, 3), keepdim=True))
        return self.mix(torch.cat([x, weight * skip], 1)), x


class MapDecoder(nn.Module):
    """A map and skips of 2, 4, … times its size -> scores of classes at the size of the last skip.

    Args:
        width: C of the map.
        skip: C of the skips.
        classes: Outputs.
        stages: How many skips.
    """

    def __init__(self, width: int, skip: int, classes: int, stages: int = 2):
        super().__init__()
        self.stages = nn.ModuleList(Up(width, skip) for _ in range(stages))
        self.deep = nn.ModuleList(conv(width, classes, act=False) for _ in range(stages))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x_NCHW: Tensor, skips: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Scores, and those of deep supervision at each stage."""
        deep = []
        for stage, head, skip in zip(self.stages, self.deep, skips):
            x_NCHW, before = stage(x_NCHW, skip)
            deep.append(head(before))
        return self.last(x_NCHW), deep


class Shuffle(nn.Module):
    """Depth to space, as torch has it; that one has no gradient for a batch without rows.

    Args:
        times: How much larger the map becomes.
    """

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C / times**2, H * times, W * times)."""
        n, c, h, w = x_NCHW.shape
        t = self.times
        small = x_NCHW.reshape(n, c // t**2, t, t, h, w).permute(0, 1, 4, 2, 5, 3)
        return small.reshape(n, c // t**2, h * t, w * t)


class Unfold(nn.Module):
    """A token of a patch as a small map of its own, with BatchNorm.

    Args:
        width_in, width: Channels.
        times: Side of the small map.
    """

    def __init__(self, width_in: int, width: int, times: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width_in, width * times**2, 1), Shuffle(times), MapNorm(width)
        )

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """(N, D, s, s) -> (N, width, s * times, s * times)."""
        out: Tensor = self.net(x_NDHW)
        return out


def as_large(x_NCHW: Tensor, side: int | tuple[int, int]) -> Tensor:
    """The map at another size, bilinear."""
    size = (side, side) if isinstance(side, int) else side
    return (
        x_NCHW
        if x_NCHW.shape[2:] == size
        else interpolate(x_NCHW, size, mode="bilinear", align_corners=False)
    )
