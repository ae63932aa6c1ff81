"""Batches of rasters: a flat list of the patches that have data, each with its date and place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Ragged
from amodal.core.host import constant

if TYPE_CHECKING:
    from amodal.modalities.raster import Raster

POSITION = 3
"""Numbers of the position of a patch: date, y and x."""
PLACE = POSITION + 1
"""Numbers before the pixels of a patch: its position, and the month of its date, NaN if unknown."""


def check_sides(patches: Sequence[int], tile: int) -> None:
    """Raise an AmodalError for sides of patches that the weights of a patch cannot be resized to.

    Args:
        patches: sides in pixels.
        tile: the side of a patch.
    """
    if any(not 1 <= side <= tile for side in patches):
        raise AmodalError(
            f"raster.patches are sides from 1 to that of a patch, {tile} pixels; they are "
            f"{list(patches)}"
        )


def patches_of(values: Sequence[np.ndarray], raster: Raster) -> Ragged:
    """A batch of rasters. A patch without any pixel is left out.

    With groups of bands there is one for each group, in which pixels of other groups are missing.

    Args:
        values: N of (T, 1 + C, H, W) float32, any T, H and W; the first plane has the month.
        raster: the field.

    Returns:
        Ragged of N lists of patches (4 + C * tile * tile,): position and month, see `PLACE`, then
        standardised pixels, NaN where missing.
    """
    width = PLACE + len(raster.bands) * raster.tile**2
    if not len(values):
        return Ragged(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    return Ragged.of([torch.from_numpy(_patches(value, raster)) for value in values])


def _patches(value: np.ndarray, raster: Raster) -> np.ndarray:
    """(patches, 4 + C * tile * tile), dates first, then rows, columns and groups of bands."""
    tile, (mean, std) = raster.tile, raster.scale()
    dates, planes, height, width = value.shape
    mean_C, std_C = (np.asarray(s, dtype=np.float32)[:, None, None] for s in (mean, std))
    pixels = (value[:, 1:] - mean_C) / std_C
    rows, columns = -(-height // tile), -(-width // tile)
    # past the border there is no data
    around = ((0, 0), (0, 0), (0, rows * tile - height), (0, columns * tile - width))
    pixels = np.pad(pixels, around, constant_values=np.nan)
    tiles = pixels.reshape(dates, planes - 1, rows, tile, columns, tile).transpose(0, 2, 4, 1, 3, 5)
    groups = raster.band_groups().values()
    if groups:
        member_GC = np.array([[band in group for band in range(planes - 1)] for group in groups])
        tiles = np.where(member_GC[..., None, None], tiles[:, :, :, None], np.float32(np.nan))
    tiles = tiles.reshape(dates, rows, columns, max(len(groups), 1), -1)
    date = [a[:, None, None, None] for a in (dates_of(value), value[:, 0, 0, 0])]
    y, x = np.arange(rows)[:, None, None], np.arange(columns)[:, None]
    place = np.stack(np.broadcast_arrays(date[0], y, x, date[1], tiles[..., 0])[:PLACE], -1)
    made = np.concatenate([place.astype(np.float32), tiles], -1).reshape(-1, PLACE + tiles.shape[4])
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
        flat: (…, 4 + n), as `patches_of` makes them.

    Returns:
        (…, n) with 0, the mean, where a pixel is missing, and (…, n) of 0 and 1.
    """
    pixels = flat[..., PLACE:]
    return pixels.nan_to_num(), (~pixels.isnan()).to(pixels.dtype)


def groups_of(flat: Tensor, raster: Raster) -> Tensor:
    """(…,) int64, the number of the group of bands that each patch is of.

    Args:
        flat: (…, 4 + n), as `patches_of` makes them of a raster with groups.
        raster: the field.
    """
    number = [0] * len(raster.bands)
    for i, members in enumerate(raster.band_groups().values()):
        for band in members:
            number[band] = i
    # a patch has pixels of one group alone, so its first one says which
    first_T = (~flat[..., PLACE:].isnan()).to(flat.dtype).argmax(-1)
    band_T = first_T // side_of(flat, raster) ** 2
    return constant(number, flat, torch.int64)[band_T]


def side_of(flat: Tensor, raster: Raster) -> int:
    """Pixels of a side of patches, by how many numbers they have.

    Args:
        flat: (…, 4 + n), as `patches_of` makes them.
        raster: the field.
    """
    return math.isqrt((flat.shape[-1] - PLACE) // len(raster.bands))
