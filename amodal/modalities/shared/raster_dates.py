"""The dates of rasters: in order, at most so many, and read only when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from amodal.modalities.shared import geotiff

VALUES, DATES, BANDS, CRS, TRANSFORM = "values", "dates", "bands", "crs", "transform"
WAVELENGTHS = "wavelengths"
"""Names within a .npz file and a dict."""
NEXT = 1e-3
"""Months between two pictures of one day, so that they have an order."""


@runtime_checkable
class ByDate(Protocol):
    """Pixels that are read date by date.

    Attributes:
        shape: (dates, bands, height, width).
    """

    shape: tuple[int, ...]

    def at_dates(self, dates: Sequence[int]) -> np.ndarray:
        """The pixels at these numbers of dates."""


def some_dates(raw: dict[str, Any], most: int) -> dict[str, Any]:
    """The evenly spaced dates of pixels that are read date by date, and the rest as it is."""
    values = raw.get(VALUES)
    if not isinstance(values, ByDate) or values.shape[0] <= most:
        return raw
    days = [str(day) for day in raw.get(DATES, ())]
    months = [geotiff.month_of(day) for day in days]
    if not np.isfinite(months).all():
        return raw  # of which the others are then not known either
    order = np.argsort(months, kind="stable") if months else None
    chosen = np.linspace(0, values.shape[0] - 1, most).round().astype(int)
    chosen = chosen if order is None or len(order) < values.shape[0] else order[chosen]
    pixels = values.at_dates(chosen.tolist())
    if not np.isfinite(pixels).any((1, 2, 3)).all():
        return raw  # of the dates with a pixel others are evenly spaced
    return raw | {VALUES: pixels} | ({DATES: [days[i] for i in chosen]} if days else {})


def in_order(pixels: np.ndarray, months: np.ndarray, most: int) -> np.ndarray:
    """(T, 1 + C, H, W) float32: dates in order, at most so many, the month as the first plane.

    Args:
        pixels: (T, C, H, W).
        months: (T,), NaN where unknown; then dates stay in the order they have.
        most: dates; of more evenly spaced ones.
    """
    # a date without any pixel says nothing
    filled = np.isfinite(pixels).any((1, 2, 3))
    pixels, months = pixels[filled], months[filled]
    if np.isfinite(months).all():
        order = np.argsort(months, kind="stable")
        pixels, months = pixels[order], months[order]
        for i in range(1, len(months)):
            months[i] = max(months[i], months[i - 1] + NEXT)
    else:
        months = np.full(len(pixels), np.nan)
    if len(pixels) > most:
        chosen = np.linspace(0, len(pixels) - 1, most).round().astype(int)
        pixels, months = pixels[chosen], months[chosen]
    plane = np.broadcast_to(months[:, None, None, None], (len(pixels), 1, *pixels.shape[2:]))
    return np.concatenate([plane.astype(np.float32), pixels.astype(np.float32)], 1)
