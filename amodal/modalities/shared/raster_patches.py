"""Batches of rasters: a flat list of the patches that have data, each with its date and place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged

if TYPE_CHECKING:
    from amodal.modalities.raster import Raster

PLACE = 3
"""Numbers before the pixels of a patch: its position, date, y and x."""


def patches_of(values: Sequence[np.ndarray], raster: Raster) -> Ragged:
    """A batch of rasters. A patch without any pixel of any band is left out.

    Args:
        values: N of (T, 1 + C, H, W) float32, any T, H and W; the first plane has the month.
        raster: the field.

    Returns:
        Ragged of N lists of patches (3 + C * tile * tile,): position, then standardised pixels, NaN
        where missing.
    """
    width = PLACE + len(raster.bands) * raster.tile**2
    if not len(values):
        return Ragged(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    return Ragged.of([torch.from_numpy(_patches(value, raster)) for value in values])


def _patches(value: np.ndarray, raster: Raster) -> np.ndarray:
    """(patches, 3 + C * tile * tile), dates first, then rows, then columns."""
    tile, (mean, std) = raster.tile, raster.scale()
    dates, planes, height, width = value.shape
    mean_C, std_C = (np.asarray(s, dtype=np.float32)[:, None, None] for s in (mean, std))
    pixels = (value[:, 1:] - mean_C) / std_C
    rows, columns = -(-height // tile), -(-width // tile)
    # past the border there is no data
    around = ((0, 0), (0, 0), (0, rows * tile - height), (0, columns * tile - width))
    pixels = np.pad(pixels, around, constant_values=np.nan)
    tiles = pixels.reshape(dates, planes - 1, rows, tile, columns, tile).transpose(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(dates, rows, columns, -1)
    when = dates_of(value)[:, None, None]
    place = np.stack(
        np.broadcast_arrays(when, np.arange(rows)[None, :, None], np.arange(columns)), -1
    )
    made = np.concatenate([place.astype(np.float32), tiles], -1).reshape(-1, PLACE + tiles.shape[3])
    present: np.ndarray = made[np.isfinite(made[:, PLACE:]).any(1)]
    return present


def dates_of(value: np.ndarray) -> np.ndarray:
    """(T,) float32, strictly ascending: the months of a value's dates; their numbers 0, 1, … where
    a month is not known."""
    months = value[:, 0, 0, 0]
    if not np.isfinite(months).all():
        return np.arange(len(value), dtype=np.float32)
    return months


def pixels_of(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels and which of them exist.

    Args:
        flat: (…, 3 + n), as `patches_of` makes them.

    Returns:
        (…, n) with 0, the mean, where a pixel is missing, and (…, n) of 0 and 1.
    """
    pixels = flat[..., PLACE:]
    return pixels.nan_to_num(), (~pixels.isnan()).to(pixels.dtype)
