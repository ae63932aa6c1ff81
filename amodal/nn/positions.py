"""Embeddings of positions: functions of real coordinates (..., 3), for any size, rate or length."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import POSITION_DIMS, AmodalError, Tokens, unknown
from amodal.core.tokens import DATE, METRES
from amodal.modalities.shared.protocols import AboutCentre, InSpace

NONE: Mapping[str, Tensor] = MappingProxyType({})
"""Of tokens without attributes."""


def sincos(position_TP: Tensor, width: int, base: float = 1e4) -> Tensor:
    """Sines and cosines of every coordinate (Vaswani et al. 2017, 3.5).

    Args:
        position_TP: (T, P).
        width: D; there are D // 6 wavelengths, from 2 pi to 2 pi base.
        base: Of the longest wavelength.

    Returns:
        (T, D).
    """
    bands = width // (2 * POSITION_DIMS)
    rate = base ** -(torch.arange(bands, device=position_TP.device) / max(bands, 1))
    angle = (position_TP.unsqueeze(-1) * rate).flatten(-2)
    # a width that 6 does not divide leaves a few dimensions without position
    rest = angle.new_zeros(*angle.shape[:-1], width - 2 * angle.shape[-1])
    return torch.cat([angle.sin(), angle.cos(), rest], -1)


class SinCos(nn.Module):
    """`sincos` as a module, without parameters."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, position_TP: Tensor) -> Tensor:
        """(T, P) -> (T, D)."""
        return sincos(position_TP, self.width)


class Ground(nn.Module):
    """Sines and cosines of time, of the month of the year, and of places in metres.

    Places of fields with different resolution are comparable so (Scale-MAE, Reed et al. 2023,
    arXiv:2212.14532, and Galileo, arXiv:2502.09356, whose months these are). A quarter
    of the width each is for time, month, height and width. Tokens without `METRES` have places as
    they are counted, those without `DATE` no month.

    Args:
        width: D.
        unit: Metres that count as one step.
        base: Of the longest wavelength.
    """

    def __init__(self, width: int, unit: float = 10.0, base: float = 1e4):
        super().__init__()
        self.width, self.unit, self.base = width, unit, base

    def forward(self, position_TP: Tensor, attributes: Mapping[str, Tensor] = NONE) -> Tensor:
        """(T, P) and (T,) of `Tokens.attributes` -> (T, D)."""
        place_TP, time_T = position_TP[..., 1:], position_TP[..., 0]
        if METRES in attributes:
            scale_T = (attributes[METRES] / self.unit).nan_to_num(nan=1.0)
            place_TP = place_TP * scale_T.unsqueeze(-1)
        count = self.width // 8
        rate = self.base ** -(torch.arange(count, device=time_T.device) / max(count, 1))
        angle = torch.cat([time_T.unsqueeze(-1), place_TP], -1).unsqueeze(-1) * rate
        parts = [angle.flatten(-2).sin(), angle.flatten(-2).cos()]
        if DATE in attributes:
            turn_T = attributes[DATE] * (2 * torch.pi / 12)
            # every dimension of the month is the same, as there, and 0 where it is not known
            turn = torch.stack([turn_T.sin(), turn_T.cos()], -1).nan_to_num()
            parts.append(turn.repeat_interleave(count, -1).to(angle.dtype))
        made = torch.cat(parts, -1)
        return nn.functional.pad(made, (0, self.width - made.shape[-1]))


def embedded(module: nn.Module, tokens: Tokens) -> Tensor:
    """(T, D), the embeddings of the positions of tokens by a module of `additive`."""
    attributes = (tokens.attributes,) if isinstance(module, Ground) else ()
    made: Tensor = module(tokens.position, *attributes)
    return made


class Learned(nn.Module):
    """A learned table for each axis, with linear interpolation between its entries.

    Args:
        width: D.
        range: Entries of a table; coordinates beyond it get the last one.
    """

    def __init__(self, width: int, range: int = 256):
        super().__init__()
        self.table = nn.Parameter(torch.randn(POSITION_DIMS, range, width) * 0.02)

    def forward(self, position_TP: Tensor) -> Tensor:
        """(T, P) -> (T, D)."""
        last = self.table.shape[1] - 1
        place = position_TP.clamp(0, last)
        # so that low + 1 exists at the end of the table, where the share is then 1
        low = place.floor().long().clamp(max=last - 1)
        part = (place - low).unsqueeze(-1)
        axis = torch.arange(POSITION_DIMS, device=place.device)
        return torch.lerp(self.table[axis, low], self.table[axis, low + 1], part).sum(-2)


class Grid(nn.Module):
    """A learned table over the plane, as of a vision transformer (Dosovitskiy et al. 2021), with
    linear interpolation between its entries; order in time by `sincos`, nothing at time 0.

    Args:
        width: D.
        side: Rows and columns of the table; coordinates beyond it get the last ones.
    """

    def __init__(self, width: int, side: int):
        super().__init__()
        self.width = width
        self.table = nn.Parameter(torch.randn(side, side, width) * 0.02)

    def forward(self, position_TP: Tensor) -> Tensor:
        """(T, P) -> (T, D)."""
        last = len(self.table) - 1
        place = position_TP[..., 1:].clamp(0, last)
        low = place.floor().long().clamp(max=max(last - 1, 0))
        part = (place - low).unsqueeze(-2)
        (y, x), (next_y, next_x) = low.unbind(-1), (low + 1).clamp(max=last).unbind(-1)
        upper = torch.lerp(self.table[y, x], self.table[y, next_x], part[..., 1])
        lower = torch.lerp(self.table[next_y, x], self.table[next_y, next_x], part[..., 1])
        time = position_TP * position_TP.new_tensor([1.0] + [0.0] * (POSITION_DIMS - 1))
        order = sincos(time, self.width) - sincos(torch.zeros_like(time), self.width)
        return torch.lerp(upper, lower, part[..., 0]) + order


class Rotary:
    """Rotates queries and keys by their coordinates (Su et al. 2021): attention sees differences.

    Args:
        position_TP: (T, P), of any number of axes; each has an equal share of the bands.
        head_width: d of a head.
        base: Of the longest wavelength. 100 is the convention of axial positions in images (Heo et
            al. 2024, arXiv:2403.13298), which count tens of patches; 10,000 is that of long texts.

    Raises:
        AmodalError: For heads that are too narrow.
    """

    def __init__(self, position_TP: Tensor, head_width: int, base: float = 100.0):
        axes = position_TP.shape[-1]
        bands = head_width // (2 * axes)
        if not bands:
            raise AmodalError(
                f"rotary positions need heads at least {2 * axes} wide, not {head_width}"
            )
        rate = base ** -(torch.arange(bands, device=position_TP.device) / bands)
        angle = (position_TP.unsqueeze(-1) * rate).flatten(-2)
        # angle 0 turns nothing: dimensions that no coordinate has
        rest = angle.new_zeros(*angle.shape[:-1], head_width // 2 - angle.shape[-1])
        angle = torch.cat([angle, rest], -1).unsqueeze(-2)
        self.cos, self.sin = angle.cos(), angle.sin()

    def __call__(self, x_THd: Tensor) -> Tensor:
        a, b = x_THd.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1).to(
            x_THd.dtype
        )


AXIAL = "axial"
"""axial and axial:OPTION=NUMBER,…, `amodal.nn.axial`."""
KINDS = ("sincos", "ground", "learned", "rotary", AXIAL, "alibi", "relative", "none")
"""rotary turns by all axes of positions, also those that a field does not have, and axial by those
that it has. alibi and relative: biases of attention, see `amodal.nn.attention.bias`."""
GRID = "grid"
"""grid:SIDE, a `Grid`."""
RELATIVE, REACH = "relative", 32
"""relative:SIDE, `amodal.nn.attention.relative`; of so many rows where it has no number."""


def refuse_tables(kind: str, fields: Mapping[str, Any]) -> None:
    """Raise AmodalError for tables of positions, which begin at 0, and fields whose tokens lie on
    both sides of it.

    Args:
        kind: Of positions.
        fields: Name -> modality, or anything that has a tokenizer.
    """
    space = [
        name
        for name, modality in fields.items()
        if isinstance(modality, InSpace)
        or (isinstance(modality, AboutCentre) and modality.below_zero)
    ]
    if space and kind.partition(":")[0] in ("learned", GRID):
        raise AmodalError(
            f"positions={kind!r} are a table that begins at 0, and tokens of {space[0]} lie about "
            "a centre: take sincos, rotary, alibi or relative"
        )


def additive(kind: str, width: int) -> nn.Module | None:
    """The module that makes embeddings of a kind, which are added to tokens; None for other kinds.

    Raises:
        AmodalError: For a kind that is neither in `KINDS` nor `GRID`:SIDE or `RELATIVE`:SIDE.
    """
    grid, _, side = kind.partition(":")
    if grid == GRID and side.isdecimal() and int(side):
        return Grid(width, int(side))
    if relative_side(kind) or kind.partition(":")[0] == AXIAL:
        return None
    if kind not in KINDS:
        raise unknown("kind of position", kind, (*KINDS, f"{GRID}:SIDE", f"{RELATIVE}:SIDE"))
    if kind in ("sincos", "ground"):
        return SinCos(width) if kind == "sincos" else Ground(width)
    return Learned(width) if kind == "learned" else None


def is_rotary(kind: str) -> bool:
    """Whether a kind of positions turns queries and keys."""
    return kind.partition(":")[0] in ("rotary", AXIAL)


def relative_side(kind: str) -> int:
    """The reach of `relative` and `relative:SIDE`, 0 for any other kind."""
    name, colon, side = kind.partition(":")
    if name != RELATIVE or (colon and not side.isdecimal()):
        return 0
    return int(side) if colon else REACH
