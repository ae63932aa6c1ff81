"""Files of points and meshes in every format that is read, made here."""

import io

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh")
laspy = pytest.importorskip("laspy")

FAR = np.array([500_000.0, 5_000_000.0, 100.0])
"""A place in a projected system, which float32 would round to half a metre."""


def box():
    return trimesh.creation.box((1, 2, 3))


def scan(count=600, seed=0):
    """(n, 3) float64."""
    return np.random.default_rng(seed).normal(size=(count, 3)) + FAR


def las(points, *, compress=False, form=3, **columns):
    file = laspy.create(point_format=form, file_version="1.4" if form > 5 else "1.2")
    file.header.offsets, file.header.scales = FAR, [0.001] * 3
    file.x, file.y, file.z = points.T
    for name, values in columns.items():
        file[name] = values
    out = io.BytesIO()
    file.write(out, do_compress=compress)
    return out.getvalue()


def mesh(ending):
    made = box().export(file_type=ending)
    return made if isinstance(made, bytes) else made.encode()


def text(points, separator=" "):
    return "\n".join(separator.join(map(repr, row)) for row in points.tolist()).encode()


QUAD = b"""ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
1 1 0
0 1 0
4 0 1 2 3
"""


def files() -> dict[str, bytes]:
    """Name -> content."""
    count = np.arange(600)
    measured = {"intensity": count % 100 + 1, "classification": count % 5}
    colours = np.tile([[255, 128, 0, 255]], (600, 1)).astype(np.uint8)
    cloud = trimesh.PointCloud(scan() - FAR, colors=colours)
    return {
        **{ending: mesh(ending) for ending in ("ply", "obj", "stl", "off", "glb")},
        "stl of text": trimesh.exchange.stl.export_stl_ascii(box()).encode(),
        "ply of text": trimesh.exchange.ply.export_ply(box(), encoding="ascii"),
        "ply of points": cloud.export(file_type="ply"),
        "ply of a quad": QUAD,
        "obj of points": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        "las": las(scan(), **measured),
        "laz": las(scan(), compress=True, **measured),
        "laz of layers": las(scan(), compress=True, form=7, **measured),
        "xyz": text(scan()),
        "csv": b"x,y,z,Intensity,label\n" + text(np.arange(10.0).reshape(2, 5), ","),
        "pts": b"2\n0 0 0 5 255 0 0\n1 1 1 7 0 255 0\n",
    }


FILES = files()
MESHES = {"ply", "obj", "stl", "off", "glb", "stl of text", "ply of text", "ply of a quad"}
