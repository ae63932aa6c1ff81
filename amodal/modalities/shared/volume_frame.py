"""What a decoded scan is: voxels with a border that says where they lie.

The border is one plane in front of each axis, so that a value is one array as of all modalities.
Six of its entries are numbers: the place of the first voxel along each axis, in millimetres from
the centre of the scan, and the spacing along each axis. So a part of a scan still knows where in
the scan it lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PLACE = ((0, 0, 0), (0, 0, 1), (0, 1, 0))
"""Entries of the border with the place of the first voxel."""
SPACING = ((0, 1, 1), (1, 0, 0), (1, 0, 1))
"""Entries of the border with the millimetres between voxels."""
AXES = 3


def framed(
    voxels: np.ndarray, spacing: Sequence[float], place: Sequence[float] | None = None
) -> np.ndarray:
    """A value.

    Args:
        voxels: (X, Y, Z), NaN where missing.
        spacing: millimetres between voxels along each axis.
        place: of the first voxel; None for the whole scan, whose centre is 0.

    Returns:
        (1 + X, 1 + Y, 1 + Z) float32.
    """
    if place is None:
        place = [-(side - 1) / 2 * step for side, step in zip(voxels.shape, spacing)]
    value = np.full([side + 1 for side in voxels.shape], np.nan, dtype=np.float32)
    for entries, numbers in ((PLACE, place), (SPACING, spacing)):
        for entry, number in zip(entries, numbers):
            value[entry] = number
    value[1:, 1:, 1:] = voxels
    return value


def voxels_of(value: np.ndarray) -> np.ndarray:
    """(X, Y, Z), a view of the voxels."""
    return value[1:, 1:, 1:]


def place_of(value: np.ndarray) -> tuple[float, ...]:
    """Millimetres of the first voxel from the centre of the scan, along each axis."""
    return tuple(float(value[entry]) for entry in PLACE)


def spacing_of(value: np.ndarray) -> tuple[float, ...]:
    """Millimetres between voxels along each axis."""
    return tuple(float(value[entry]) for entry in SPACING)


def cut(value: np.ndarray, starts: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A window.

    Args:
        value: to cut from.
        starts: voxels along each axis.
        shape: of the window at most; at the border it ends with the scan.
    """
    spacing = spacing_of(value)
    place = [at + s * step for at, s, step in zip(place_of(value), starts, spacing)]
    within = tuple(slice(start, start + side) for start, side in zip(starts, shape))
    return framed(voxels_of(value)[within], spacing, place)


def with_voxels(value: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """The same places with other voxels (X, Y, Z)."""
    out = value.copy()
    out[1:, 1:, 1:] = voxels
    return out


def mirrored(value: np.ndarray) -> np.ndarray:
    """Left and right exchanged, about the centre of the scan."""
    place, spacing = list(place_of(value)), spacing_of(value)
    place[0] = -(place[0] + (value.shape[0] - 2) * spacing[0])
    return framed(voxels_of(value)[::-1], spacing, place)
