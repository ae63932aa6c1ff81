"""Heads in scans, cut into blocks: NIfTI of each block, split by hemisphere."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amodal.modalities.shared.volume_nifti import library

SIDE = 32
"""Voxels of a block along each axis."""
FILLED = 0.05
"""Share of a block's voxels that are not air, at least."""
AIR = 0.02
"""Of the range of a head: what is darker is air."""
BRIGHT = 99.5
"""The percentile of a head that becomes 1."""
STEPS = 1000
"""Stored whole numbers from 0 to 1."""


@dataclass(frozen=True)
class Head:
    """A scan and maps on its grid.

    Attributes:
        name: of the head.
        voxels: (X, Y, Z) with axes to the right, front and top.
        affine: (4, 4), indices -> millimetres; the middle of the head is at x = 0.
        maps: name -> (X, Y, Z) class numbers.
    """

    name: str
    voxels: np.ndarray
    affine: np.ndarray
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)


def scan(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file, with axes to the right, front and top."""
    nibabel: Any = library()
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def by_block(heads: Sequence[Head]) -> dict[str, list[Any]]:
    """Columns of records: a block of a head each, and its maps.

    Returns:
        "key", "part" (the left half is for training; of the right one a third of the blocks is for
        validation, the others to test), "head", "scan", and each of the maps, None where a head
        has it not. Intensities of a head are divided by its percentile 99.5.
    """
    names = list(dict.fromkeys(name for head in heads for name in head.maps))
    columns: dict[str, list[Any]] = {n: [] for n in ("key", "part", "head", "scan", *names)}
    for head in heads:
        bright = float(np.percentile(head.voxels[head.voxels > 0], BRIGHT))
        stored = (head.voxels / bright * STEPS).round().clip(0, 32767).astype(np.int16)
        for corner, within in _blocks(head, stored):
            x, y, z = corner
            columns["key"].append(f"{head.name}-x{x:+d}-y{y:+d}-z{z:+d}")
            columns["part"].append(_part(corner))
            columns["head"].append(head.name)
            columns["scan"].append(_file(stored[within], head.affine, within, 1 / STEPS))
            for name in names:
                numbers = head.maps.get(name)
                cut = None if numbers is None else numbers[within]
                columns[name].append(
                    None if cut is None else _file(cut.astype(np.int16), head.affine, within)
                )
    return columns


def _blocks(
    head: Head, stored: np.ndarray
) -> Iterator[tuple[tuple[int, int, int], tuple[slice, ...]]]:
    """Blocks that are not air, by their numbers from the middle of the head outwards: x is below 0
    to the left."""
    middle = [round(float(n)) for n in np.linalg.inv(head.affine)[:3, 3]]
    ranges = []
    for first, side in zip(middle, stored.shape):
        low, high = -(first // SIDE) - 1, (side - first - 1) // SIDE
        ranges.append(range(low, high + 1))
    for x in ranges[0]:
        for y in ranges[1]:
            for z in ranges[2]:
                starts = [first + n * SIDE for first, n in zip(middle, (x, y, z))]
                within = tuple(slice(max(start, 0), max(start + SIDE, 0)) for start in starts)
                block = stored[within]
                if block.size and (block > AIR * STEPS).sum() >= FILLED * SIDE**3:
                    yield (x, y, z), within


def _part(corner: tuple[int, int, int]) -> str:
    x, y, z = corner
    if x < 0:
        return "train"
    return "valid" if (x + y + z) % 3 == 0 else "test"


def _file(
    voxels: np.ndarray, affine: np.ndarray, within: tuple[slice, ...], slope: float = 1.0
) -> bytes:
    """A block as .nii.gz, which lies in the head where it was cut out."""
    nibabel: Any = library()
    place = np.array(affine, dtype=np.float64)
    place[:3, 3] += place[:3, :3] @ [float(one.start) for one in within]
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), place)
    image.header.set_xyzt_units("mm")
    if slope != 1:
        content = bytearray(image.to_bytes())
        # nibabel takes slopes for its own to choose; 112 is where NIfTI has scl_slope
        content[112:120] = np.array([slope, 0], dtype="<f4").tobytes()
        return gzip.compress(bytes(content), 6, mtime=0)
    return gzip.compress(image.to_bytes(), 6, mtime=0)
