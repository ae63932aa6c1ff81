"""Where a token is. Every function takes real coordinates (..., 3), so any size, rate or length has
positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amodal.core import POSITION_DIMS, AmodalError, unknown


def sincos(position_TP: Tensor, width: int, base: float = 1e4) -> Tensor:
    """(T, D): sines and cosines of every coordinate at D // 6 wavelengths from 2 pi to 2 pi base
    (Vaswani et al. 2017, 3.5)."""
    bands = width // (2 * POSITION_DIMS)
    rate = base ** -(torch.arange(bands, device=position_TP.device) / max(bands, 1))
    angle = (position_TP.unsqueeze(-1) * rate).flatten(-2)
    rest = angle.new_zeros(*angle.shape[:-1], width - 2 * angle.shape[-1])
    return torch.cat([angle.sin(), angle.cos(), rest], -1)


class SinCos(nn.Module):
    """Fixed: nothing to learn, any range of coordinates."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, position_TP: Tensor) -> Tensor:
        return sincos(position_TP, self.width)


class Learned(nn.Module):
    """A table of `range` vectors for each axis, read between its entries; coordinates beyond it get
    the last entry."""

    def __init__(self, width: int, range: int = 256):
        super().__init__()
        self.table = nn.Parameter(torch.randn(POSITION_DIMS, range, width) * 0.02)

    def forward(self, position_TP: Tensor) -> Tensor:
        last = self.table.shape[1] - 1
        at = position_TP.clamp(0, last)
        low = at.floor().long().clamp(max=last - 1)
        part = (at - low).unsqueeze(-1)
        axis = torch.arange(POSITION_DIMS, device=at.device)
        return torch.lerp(self.table[axis, low], self.table[axis, low + 1], part).sum(-2)


class Rotary:
    """Turns queries and keys by their coordinates, so that attention sees differences of position
    (Su et al. 2021)."""

    def __init__(self, position_TP: Tensor, head_width: int, base: float = 100.0):
        bands = head_width // (2 * POSITION_DIMS)
        if not bands:
            raise AmodalError(
                f"rotary positions need heads at least {2 * POSITION_DIMS} wide, not {head_width}"
            )
        rate = base ** -(torch.arange(bands, device=position_TP.device) / bands)
        angle = (position_TP.unsqueeze(-1) * rate).flatten(-2)
        rest = angle.new_zeros(*angle.shape[:-1], head_width // 2 - angle.shape[-1])
        angle = torch.cat([angle, rest], -1).unsqueeze(-2)
        self.cos, self.sin = angle.cos(), angle.sin()

    def __call__(self, x_THd: Tensor) -> Tensor:
        a, b = x_THd.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1).to(
            x_THd.dtype
        )


KINDS = ("sincos", "learned", "rotary", "none")


def additive(kind: str, width: int) -> Callable[[Tensor], Tensor] | None:
    """What is added to the tokens for this kind of position; None for kinds that add nothing."""
    if kind not in KINDS:
        raise unknown("kind of position", kind, KINDS)
    return (
        {"sincos": SinCos, "learned": Learned}[kind](width)
        if kind in ("sincos", "learned")
        else None
    )
