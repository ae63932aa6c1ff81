"""Batches of scans: a flat list of the patches that have a voxel, each with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.modalities.shared import volume_frame as frame

if TYPE_CHECKING:
    from amodal.modalities.volume import Volume

POSITION = 3
"""Numbers of the position of a patch: millimetres to the right, front and top."""
PLACE = POSITION + 3
"""Numbers before the voxels of a patch: its position, and the logarithms of how much larger its
voxels are than those of the field, along each axis."""


def patches_of(values: Sequence[np.ndarray], volume: Volume) -> Ragged:
    """A batch of scans. A patch without any voxel is left out.

    Args:
        values: N values of any shape, see `volume_frame`.
        volume: the field.

    Returns:
        Ragged of N lists of patches (6 + p,): see `PLACE`, then the p standardised voxels of a
        patch, NaN where missing.
    """
    width = PLACE + math.prod(volume.patch)
    if not len(values):
        return Ragged(torch.zeros(0, width), torch.zeros(0, dtype=torch.int64))
    return Ragged.of([torch.from_numpy(_patches(value, volume)) for value in values])


def _patches(value: np.ndarray, volume: Volume) -> np.ndarray:
    """(patches, 6 + p), to the right first, then to the front and to the top."""
    voxels, spacing = frame.voxels_of(value), frame.spacing_of(value)
    cells = cells_of(voxels.shape, volume.patch)
    # past the border there is no data
    spare = [(0, n * p - side) for n, p, side in zip(cells, volume.patch, voxels.shape)]
    padded = np.pad(voxels, spare, constant_values=np.nan)
    sides = [x for pair in zip(cells, volume.patch) for x in pair]
    tiles = padded.reshape(sides).transpose(0, 2, 4, 1, 3, 5).reshape(math.prod(cells), -1)
    centres = [
        at + ((p - 1) / 2 + p * np.arange(n)) * step
        for at, p, n, step in zip(frame.place_of(value), volume.patch, cells, spacing)
    ]
    position = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, POSITION)
    present = np.isfinite(tiles).any(1)
    larger = np.log([s / usual for s, usual in zip(spacing, volume.spacing)])
    ratio = np.broadcast_to(larger, (int(present.sum()), 3))
    made = [position[present], ratio, volume.standardised(tiles[present])]
    return np.concatenate([part.astype(np.float32) for part in made], 1)


def cells_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Patches along each axis that cover so many voxels."""
    return tuple(-(-side // p) for side, p in zip(shape, patch))


def places_in(value: np.ndarray, position_TP: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """(T, 3) int64, which patch along each axis of a value tokens are.

    Args:
        value: of which the tokens are, or a window of it.
        position_TP: (T, 3) millimetres.
        patch: voxels of a patch along each axis.
    """
    first = np.array(frame.place_of(value))
    step = np.array(frame.spacing_of(value)) * np.array(patch)
    within = (position_TP - first) / step
    cells: np.ndarray = np.floor(within + 1e-4).astype(np.int64)
    return cells


def voxels_of(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels and which of them exist.

    Args:
        flat: (…, 6 + p), as `patches_of` makes them.

    Returns:
        (…, p) with 0, the mean, where a voxel is missing, and (…, p) of 0 and 1.
    """
    voxels = flat[..., PLACE:]
    return voxels.nan_to_num(), (~voxels.isnan()).to(voxels.dtype)
