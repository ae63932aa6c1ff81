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
"""Numbers before the pixels of a patch: its position, and the month of its date, NaN if unknown.
With `Raster.by_wavelength` the metres of its side, NaN if unknown, and the nanometres of its band
follow."""
OF_BAND = PLACE + 2
"""Numbers before the pixels of a patch of a single band."""


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
    By wavelength there is one for each band, which has the pixels of that band alone.

    Args:
        values: N of (T, 1 + C, H, W) float32, any T, H and W; the first plane has the month.
        raster: the field.

    Returns:
        Ragged of N lists of patches (4 + C * tile * tile,), or (6 + tile * tile,) by wavelength:
        see `PLACE`, then standardised pixels, NaN where missing.
    """
    each = raster.tile**2
    width = OF_BAND + each if raster.by_wavelength else PLACE + len(raster.bands) * each
    if not len(values):
        return Ragged(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    return Ragged.of([torch.from_numpy(_patches(value, raster)) for value in values])


def _patches(value: np.ndarray, raster: Raster) -> np.ndarray:
    """(patches, 4 + C * tile * tile), dates first, then rows, columns and groups of bands, or
    bands."""
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
    if raster.by_wavelength:
        nanometres = np.array(raster.band_wavelengths(), dtype=np.float32)
        tiles = tiles.reshape(dates, rows, columns, planes - 1, -1)
        metres = np.full_like(nanometres, raster.ground_step or np.nan)
        of_band_C2 = np.stack([metres, nanometres], 1)
        return _with_place(value, tiles, np.broadcast_to(of_band_C2, (*tiles.shape[:4], 2)))
    if groups:
        member_GC = np.array([[band in group for band in range(planes - 1)] for group in groups])
        tiles = np.where(member_GC[..., None, None], tiles[:, :, :, None], np.float32(np.nan))
    tiles = tiles.reshape(dates, rows, columns, max(len(groups), 1), -1)
    return _with_place(value, tiles, tiles[..., :0])


def _with_place(value: np.ndarray, tiles: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The patches that have a pixel: place, what else is known of them, and pixels.

    Args:
        value: (T, 1 + C, H, W).
        tiles: (T, rows, columns, G, n) pixels of each patch.
        more: (T, rows, columns, G, m).
    """
    _, rows, columns = tiles.shape[:3]
    date = [a[:, None, None, None] for a in (dates_of(value), value[:, 0, 0, 0])]
    y, x = np.arange(rows)[:, None, None], np.arange(columns)[:, None]
    place = np.stack(np.broadcast_arrays(date[0], y, x, date[1], tiles[..., 0])[:PLACE], -1)
    made = np.concatenate([place.astype(np.float32), more, tiles], -1)
    present: np.ndarray = made[np.isfinite(tiles).any(-1)]
    return present


def dates_of(value: np.ndarray) -> np.ndarray:
    """(T,) float32, strictly ascending: the months of a value's dates; their numbers 0, 1, … where
    a month is not known."""
    months = value[:, 0, 0, 0]
    if not np.isfinite(months).all():
        return np.arange(len(value), dtype=np.float32)
    return months


def pixels_of(flat: Tensor, begin: int = PLACE) -> tuple[Tensor, Tensor]:
    """Pixels and which of them exist.

    Args:
        flat: (…, 4 + n), as `patches_of` makes them.
        begin: Numbers before the pixels.

    Returns:
        (…, n) with 0, the mean, where a pixel is missing, and (…, n) of 0 and 1.
    """
    pixels = flat[..., begin:]
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
