"""Axes of scans, flipped and exchanged to lead to the right, front and top (RAS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AXES = "RAS"
"""To the right, front and top."""


@dataclass(frozen=True)
class Scan:
    """The voxels of a raw value.

    Attributes:
        voxels: (X, Y, Z) float32 with axes to the right, front and top, NaN where missing.
        affine: (4, 4), indices -> millimetres to the right, front and top.
        unit: "HU", or "" for none.
        axes: where the axes of the file lead: "LPS"; "" where it does not say.
    """

    voxels: np.ndarray
    affine: np.ndarray
    unit: str = ""
    axes: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres between voxels along each axis."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(length) for length in lengths)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a scan lie.

    Attributes:
        shape: voxels along each axis, to the right, front and top.
        affine: (4, 4), indices -> millimetres to the right, front and top.
        axes: where the axes of the file lead: "LPS"; "" where it does not say.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    axes: str


def closest(voxels: np.ndarray, affine: np.ndarray, unit: str, *, known: bool = True) -> Scan:
    """A scan with axes flipped and exchanged to lead to the right, front and top.

    Args:
        voxels: (X, Y, Z), as they are stored.
        affine: (4, 4), of the stored axes.
        unit: "HU" or "".
        known: whether the file says where the axes lead.
    """
    order, signs = _axes(affine[:3, :3])
    where = [order.index(axis) for axis in range(3)]
    axes = tuple(axis for axis, i in enumerate(where) if signs[i] < 0)
    out = np.flip(voxels.transpose(where), axes)
    grid = turned(voxels.shape, affine, known=known)
    return Scan(np.ascontiguousarray(out), grid.affine, unit, grid.axes)


def turned(shape: tuple[int, ...], affine: np.ndarray, *, known: bool) -> Grid:
    """A grid with axes flipped and exchanged to lead to the right, front and top.

    Args:
        shape: voxels along each axis, as they are stored.
        affine: (4, 4), of the stored axes.
        known: whether the file says where these lead.
    """
    order, signs = _axes(affine[:3, :3])
    where = [order.index(axis) for axis in range(3)]
    out = affine[:, [*where, 3]].copy()
    for axis, i in enumerate(where):
        if signs[i] < 0:
            out[:3, 3] += out[:3, axis] * (shape[i] - 1)
            out[:3, axis] *= -1
    return Grid(tuple(shape[i] for i in where), out, _names(order, signs) if known else "")


def names_of(affine: np.ndarray) -> str:
    """Where the axes of an array lead, such as "LPS"."""
    return _names(*_axes(affine[:3, :3]))


def _names(order: Sequence[int], signs: Sequence[float]) -> str:
    return "".join((AXES if sign > 0 else "LPI")[axis] for axis, sign in zip(order, signs))


def _axes(columns: np.ndarray) -> tuple[list[int], list[float]]:
    """Which direction each axis of the array is closest to, and whether it leads there (1) or away
    (-1). Each direction is of one axis; the clearest are chosen first."""
    columns = columns / np.linalg.norm(columns, axis=0)
    left = np.abs(columns)
    order, signs = [0, 0, 0], [1.0, 1.0, 1.0]
    for _ in range(3):
        direction, axis = (int(n) for n in np.unravel_index(left.argmax(), left.shape))
        order[axis], signs[axis] = direction, float(np.sign(columns[direction, axis]) or 1)
        left[direction], left[:, axis] = -1, -1
    return order, signs
