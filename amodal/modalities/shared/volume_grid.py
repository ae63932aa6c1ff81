"""The grid of a scan, and whether that of its map is the same."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from amodal.modalities.shared import volume_nifti as nifti
from amodal.modalities.shared import volume_values as values
from amodal.modalities.shared.base import Raw
from amodal.modalities.shared.files import read_bytes, unwrap
from amodal.modalities.shared.volume_axes import AXES, Grid, turned

NEAR = 0.1
"""Sides of a voxel that corners of one grid may lie apart: headers round."""


def grid_of(raw: Raw, number: int = -1) -> Grid:
    """The grid of a scan with axes to the right, front and top; of NIfTI by its header alone.

    Args:
        raw: see `volume_values.read`.
        number: of the scan in a file of more, from 0.

    Raises:
        BadValue: it is no scan, or damaged.
    """
    raw = unwrap(raw)
    file = isinstance(raw, (Path, bytes)) and not (isinstance(raw, Path) and raw.is_dir())
    if file and nifti.is_nifti(data := read_bytes(cast(Any, raw))):
        header = nifti.header_of(data)
        return turned(header.shape[:3], header.affine, known=header.oriented)
    scan = values.read(raw, number)
    return Grid(scan.voxels.shape, scan.affine, scan.axes)


def other_grid(raw: Raw, truth: Raw, number: int = -1) -> str:
    """How the grid of a map differs from that of its scan: a sentence, "" where it does not.

    Where neither says how the patient lay, voxels are compared by their number alone.

    Args:
        raw: the scan.
        truth: the map.
        number: of the scan in a file of more, from 0.

    Raises:
        BadValue: one of them cannot be read.
    """
    scan, other = grid_of(raw, number), grid_of(truth, number)
    if scan.shape == other.shape and not (scan.axes or other.axes):
        return ""
    oriented = scan if scan.axes else other
    one_side = bool(scan.axes) != bool(other.axes)
    if scan.shape == other.shape and one_side and oriented.axes == AXES:
        return ""  # nothing was turned
    if scan.shape == other.shape and not one_side and _apart(scan, other) <= NEAR:
        return ""
    return (
        f"the map has {_named(other)}, and its scan {_named(scan)}: bring the map to the grid of "
        "the scan, with the same affine, such as with nibabel.processing.resample_from_to(map, "
        "scan, order=0)"
    )


def _apart(scan: Grid, other: Grid) -> float:
    """How far the corners of two grids of one shape lie apart, in sides of the smallest voxel."""
    corners = np.array([(*at, 1) for at in product(*((0, n - 1) for n in scan.shape))])
    distance = np.linalg.norm(corners @ (scan.affine - other.affine)[:3].T, axis=1).max()
    return float(distance / np.linalg.norm(scan.affine[:3, :3], axis=0).min())


def _named(grid: Grid) -> str:
    sides = " x ".join(map(str, grid.shape))
    if not grid.axes:
        return f"{sides} voxels and no orientation"
    steps = " x ".join(f"{s:.4g}" for s in np.linalg.norm(grid.affine[:3, :3], axis=0))
    first = ", ".join(f"{x:.4g}" for x in grid.affine[:3, 3])
    return f"{sides} voxels of {steps} mm with the first at ({first}) mm, axes {grid.axes}"
