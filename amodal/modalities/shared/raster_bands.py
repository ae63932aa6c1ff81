"""Which pixels of a raster are those of the bands of a field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.errors import nearest
from amodal.modalities.shared.base import BadValue, listed
from amodal.modalities.shared.raster_values import Stack


def in_bands(stack: Stack, bands: Sequence[str]) -> np.ndarray:
    """(T, C, H, W): the pixels of these bands, by their names where a raster has names, else by
    their order; NaN where it lacks one.

    Raises:
        BadValue: it has none of them, another number of bands without names, or no pixel.
    """
    pixels = _by_name(stack, bands) if stack.named else _by_place(stack, bands)
    if not np.isfinite(pixels).any():
        raise BadValue("every pixel is missing")
    return pixels


def _by_name(stack: Stack, bands: Sequence[str]) -> np.ndarray:
    present = [b for b in bands if b in stack.bands]
    if not present:
        close = [c for name in bands for c in nearest(name, stack.bands)]
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadValue(f"none of the bands {listed(bands)}; it has {listed(stack.bands)}{hint}")
    dates, _, height, width = stack.pixels.shape
    pixels = np.full((dates, len(bands), height, width), np.nan, dtype=np.float32)
    for i, name in enumerate(bands):
        if name in stack.bands:
            pixels[:, i] = stack.pixels[:, stack.bands.index(name)]
    return pixels


def _by_place(stack: Stack, bands: Sequence[str]) -> np.ndarray:
    count = stack.pixels.shape[1]
    if count != len(bands):
        raise BadValue(
            f"{count} band{'s' * (count > 1)} without names, expected {len(bands)}: {listed(bands)}"
        )
    return stack.pixels
