"""Sweet Home 3D's furniture: 820 objects, each an icon, a name in six languages, its size in
centimetres, and its shape.

Rendered icons of at most 96 pixels on white; width, depth and height as they are in a home; the
shape is 2,048 points of the surface of the mesh, each area with its share, with normals, turned and
in metres as in a home, y up; the category is the shop's (12), the collection is who made it, which
is also whose licence applies. Left out: materials of the meshes, 15 more languages.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.fetch import Debian
from amodal.data.sets.shared.archives import deb
from amodal.data.sets.shared.writing import describe, field, picture, records
from amodal.modalities.shared import points_files, points_values, points_write

PACKAGES = (
    Debian(
        "sweethome3d-furniture",
        "1.8-1",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        119.8,
    ),
)
LICENCE = "CC BY 3.0 (collection BlendSwap-CC-0: CC0)"
RECORDS = 820
LANGUAGES = ("fr", "de", "es", "it", "ru", "zh_CN")
SIZE = ("width", "depth", "height")
LONGEST = 96
POINTS = 2048
"""Of a shape."""


def write(out: Path, archives: list[Path]) -> None:
    names = {"name": "en"} | {f"name_{x.partition('_')[0]}": x for x in LANGUAGES}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("key", "image", *names, *SIZE, "shape", "category", "collection")
    }
    for path, content in deb(archives[0], "usr/share/sweethome3d/furniture/"):
        collection, catalogue = Path(path).stem, zipfile.ZipFile(io.BytesIO(content))
        known = {
            match[1] or "en": _properties(catalogue.read(file))
            for file in catalogue.namelist()
            if (match := re.search(r"Catalog_?(\w*)\.properties$", file))
        }
        english, i = known["en"], 1
        while f"name#{i}" in english:
            columns["key"].append(f"{collection}-{i:03d}")
            columns["image"].append(
                picture(catalogue.read(english[f"icon#{i}"].lstrip("/")), LONGEST)
            )
            for name, language in names.items():
                columns[name].append(known.get(language, {}).get(f"name#{i}"))
            for side in SIZE:
                columns[side].append(float(english[f"{side}#{i}"]))
            mesh = catalogue.read(english[f"model#{i}"].lstrip("/"))
            columns["shape"].append(_shape(mesh, english, i))
            columns["category"].append(english.get(f"category#{i}"))
            columns["collection"].append(collection)
            i += 1
    records(out, columns)
    describe(
        out,
        {
            "image": field("image", size=64),
            **{name: field("text") for name in names},
            "size": field("table", columns=list(SIZE)),
            "shape": field("points", up="y"),
        },
        {"category": "category", "collection": "category"},
        title="Furniture: icons, names, sizes and shapes",
        licence="CC BY 3.0",
    )


def _shape(mesh: bytes, properties: Mapping[str, str], number: int) -> bytes:
    """Points of a mesh as it stands in a home.

    Args:
        mesh: an OBJ file.
        properties: of the catalogue.
        number: of the object in it.
    """
    cloud = points_files.read(mesh)
    turn = np.array(properties.get(f"modelRotation#{number}", "1 0 0 0 1 0 0 0 1").split(), float)
    corners = cloud.points @ turn.reshape(3, 3).T
    sides = [float(properties[f"{side}#{number}"]) / 100 for side in ("width", "height", "depth")]
    corners = (corners - corners.min(0)) / np.maximum(np.ptp(corners, axis=0), 1e-9) * sides
    assert cloud.faces is not None, "a catalogue has meshes"
    normals = np.full_like(corners, np.nan)
    both = np.concatenate([corners, normals], 1)
    points = points_values.surface(both, cloud.faces, points_files.NORMAL, POINTS)
    return points_write.ply_bytes(points, points_files.NORMAL)


def _properties(content: bytes) -> dict[str, str]:
    """A Java properties file: `name#1=Lit \\u00e0 baldaquin`."""
    pairs = (
        line.split("=", 1)
        for line in content.decode("latin-1").splitlines()
        if "=" in line and line[0] not in "#!"
    )
    return {
        key.strip(): re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), v).strip()
        for key, v in pairs
    }
