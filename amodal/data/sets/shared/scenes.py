"""Scenes of satellites, cut into tiles: GeoTIFF of a window, at the resolution of the scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 8
"""Tiles of a side of a block."""


@dataclass(frozen=True)
class Scene:
    """Bands of one resolution.

    Attributes:
        bands: their names.
        pixels: (C, H, W), as they are stored.
        profile: of rasterio: crs, transform.
        scale: stored number x scale = physical unit.
    """

    bands: tuple[str, ...]
    pixels: np.ndarray
    profile: Mapping[str, Any]
    scale: float = 1.0


def scene(files: Mapping[str, bytes], scale: float = 1.0) -> Scene:
    """Bands in files of their own as one scene.

    Args:
        files: name of the band -> content of its file, all on one grid.
        scale: of the stored numbers.
    """
    from rasterio.io import MemoryFile

    layers, profile = [], {}
    for content in files.values():
        with MemoryFile(content) as memory, memory.open() as file:
            layers.append(file.read(1))
            profile = {"crs": file.crs, "transform": file.transform}
    return Scene(tuple(files), np.stack(layers), profile, scale)


def tiles(part: Scene, side: int) -> Iterator[tuple[int, int, bytes]]:
    """(row, column, GeoTIFF) of each whole tile.

    Args:
        part: what is cut.
        side: of a tile in pixels.
    """
    _, height, width = part.pixels.shape
    for row in range(height // side):
        for column in range(width // side):
            yield row, column, _tile(part, row * side, column * side, side)


def _tile(part: Scene, top: int, left: int, side: int) -> bytes:
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    a, b, c, d, e, f = tuple(part.profile["transform"])[:6]
    place = Affine(a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    window = part.pixels[:, top : top + side, left : left + side]
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=side,
            width=side,
            count=len(part.bands),
            dtype=window.dtype,
            crs=part.profile["crs"],
            transform=place,
            compress="deflate",
            predictor=2,
        ) as file:
            file.write(window)
            for i, name in enumerate(part.bands):
                file.set_band_description(i + 1, name)
            file.scales = [part.scale] * len(part.bands)
        content: bytes = memory.read()
    return content


def by_place(parts: Mapping[str, tuple[Scene, int]]) -> dict[str, list[Any]]:
    """Columns of records: a tile of each part at every place that all of them have.

    Args:
        parts: field -> its scene and the side of its tiles, which is the same on the ground.

    Returns:
        "key", "part" (of the split: blocks of 8 x 8 places, of which a fifth is for validation and
        a fifth to test, so that few tiles have neighbours in another part), and the fields.
    """
    cut = {
        name: {(row, column): content for row, column, content in tiles(part, side)}
        for name, (part, side) in parts.items()
    }
    places = sorted(set.intersection(*(set(found) for found in cut.values())))
    columns: dict[str, list[Any]] = {
        "key": [f"r{row:02d}-c{column:02d}" for row, column in places],
        "part": [_part(row // BLOCK, column // BLOCK) for row, column in places],
    }
    return columns | {name: [found[p] for p in places] for name, found in cut.items()}


def _part(row: int, column: int) -> str:
    """Blocks of one part do not touch, unless it is the training part."""
    return {0: "test", 1: "valid"}.get((row + 2 * column) % 5, "train")


def mean_difference(first: Sequence[bytes], bands: tuple[int, int]) -> list[float]:
    """The normalised difference (a - b) / (a + b) of two bands, the mean over the pixels of each
    tile.

    Args:
        first: GeoTIFF of tiles.
        bands: numbers of a and b, from 0.
    """
    from rasterio.io import MemoryFile

    out = []
    for content in first:
        with MemoryFile(content) as memory, memory.open() as file:
            a, b = (file.read(1 + band).astype(np.float64) for band in bands)
        total = a + b
        out.append(float(((a - b) / np.where(total == 0, 1, total)).mean()))
    return out
