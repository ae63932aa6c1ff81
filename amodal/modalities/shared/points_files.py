"""Points and meshes from files and arrays: trimesh reads meshes and PLY, laspy LAS and LAZ.

A file is read from its bytes alone, so that none may name another: no materials, no textures.
"""

from __future__ import annotations

import importlib
import io
import itertools
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.points_headers import (
    GLB,
    LAS,
    LAS_FORMAT,
    MAX_POINTS,
    OBJ,
    OFF,
    PACKED,
    PLY,
    STL,
    Declared,
    check_declared,
    declared,
    ply_header,
    with_small_axes,
)
from amodal.modalities.shared.points_laz import check_chunks
from amodal.modalities.shared.points_off import vertex_colours
from amodal.modalities.shared.points_ply import Polygons, has_polygons, read_polygons
from amodal.modalities.shared.points_text import table

POINTS, LABEL = "points", "classification"
"""Names within a dict: the coordinates, and the class of each point."""
COLOUR, NORMAL, INTENSITY = ("red", "green", "blue"), ("nx", "ny", "nz"), ("intensity",)
ATTRIBUTES = (*COLOUR, *NORMAL, *INTENSITY)
NAMES = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "diffuse_red": "red",
    "diffuse_green": "green",
    "diffuse_blue": "blue",
    "normal_x": "nx",
    "normal_y": "ny",
    "normal_z": "nz",
    "scalar_intensity": "intensity",
    "reflectance": "intensity",
    "scalar_classification": LABEL,
    "label": LABEL,
    "class": LABEL,
    "scalar_label": LABEL,
}
"""Other names of an attribute, lower case -> ours."""
LAYOUTS: dict[int, tuple[str, ...] | None] = {
    3: (),
    4: INTENSITY,
    6: None,
    7: (*INTENSITY, *COLOUR),
    9: (*COLOUR, *NORMAL),
}
"""Columns of a text or array without names -> what follows x, y, z; six are colours or normals."""
PANIC = "PanicException"
"""What the part of a library that is written in Rust raises for its own faults."""
MANY, CONSIDERABLE, PILED = 100, 0.01, 10
"""Points of a cloud from which its origin may be what no place was measured for, the share of them
that lie there, and how often they do for each that lies at another place."""
ROUNDED = 1.01
"""Colours above their largest by less than this factor are rounded."""
UNIT = (0.9, 1.1)
"""Lengths that a normal has, with room for rounding."""


@dataclass(frozen=True)
class Cloud:
    """Points, or a mesh.

    Attributes:
        points: (n, 3) float64, in the units of the file.
        attributes: name -> (n,) float32; colours are 0 … 1.
        faces: (f, 3) int64, of a mesh; None for points.
        y_up: whether the format says, or mostly means, that y points up.
        unmeasured: points at (0, 0, 0) that were left out, see `read`.
    """

    points: np.ndarray
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    faces: np.ndarray | None = None
    y_up: bool = False
    unmeasured: int = 0

    @property
    def names(self) -> frozenset[str]:
        """Attributes that its points have; a mesh has the normals of its faces."""
        return frozenset(self.attributes) | frozenset(NORMAL if self.faces is not None else ())


def read(raw: Raw) -> Cloud:
    """Points or a mesh of any kind, without points that are not finite.

    Depth cameras write (0, 0, 0) where they measured nothing: such points are left out where they
    are more than 1 % of a cloud, ten times as many as lie at another place.

    Args:
        raw: a file or its bytes, an array (n, 3 or more), or a dict with "points", or with "x",
            "y" and "z", and any attributes.

    Raises:
        BadValue: it is none, damaged, or has no point.
    """
    raw = unwrap(raw)
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if not is_numpy(data):
            return _finite(_of_file(data))
        raw = load_numpy(data)
    return _finite(_of_dict(raw) if isinstance(raw, dict) else _of_array(raw))


def _finite(cloud: Cloud) -> Cloud:
    """Without points that have no place; a face that has one of these goes too."""
    good = np.isfinite(cloud.points).all(1)
    if not good.any():
        raise BadValue("no point with a place" if len(good) else "0 points")
    largest = np.abs(cloud.points[good]).max()
    if largest > np.finfo(np.float32).max / 1e6:
        raise BadValue(f"a coordinate of {largest:.3g}, which is no length in metres")
    unmeasured = _unmeasured(cloud, good)
    good &= ~unmeasured
    if good.all():
        return cloud
    attributes = {name: values[good] for name, values in cloud.attributes.items()}
    faces = cloud.faces
    if faces is not None:
        number = np.cumsum(good) - 1
        faces = number[faces[good[faces].all(1)]]
        if not len(faces):
            raise BadValue("a mesh of which no face has a place")
    return Cloud(cloud.points[good], attributes, faces, cloud.y_up, int(unmeasured.sum()))


def _unmeasured(cloud: Cloud, good: np.ndarray) -> np.ndarray:
    """(n,) whether a point is at (0, 0, 0) for want of a place; none where others are there too."""
    zero: np.ndarray = good & (cloud.points == 0).all(1)
    count, others = int(zero.sum()), int(good.sum() - zero.sum())
    if cloud.faces is None and others >= MANY and count > CONSIDERABLE * (count + others):
        elsewhere = len(np.unique(cloud.points[good & ~zero], axis=0))
        if count >= PILED * others / elsewhere:
            return zero
    return np.zeros_like(zero)


def _of_file(data: bytes) -> Cloud:
    header = declared(data)
    check_declared(header)
    if header.form == LAS:
        return _las(data)
    if header.form in (PLY, GLB, OFF, STL, OBJ):
        return _by_trimesh(data, header)
    return _text(data)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadValue(f"{name} reads it: pip install 'amodal[points]'") from None


def _by_trimesh(data: bytes, header: Declared) -> Cloud:
    trimesh = _import("trimesh")
    # it logs the traces of errors that are a sentence here
    logging.getLogger("trimesh").addHandler(logging.NullHandler())
    data = with_small_axes(data) if header.form == PLY else data
    if header.form == PLY and ply_header(data)[0] != "ascii" and has_polygons(data):
        return _of_polygons(read_polygons(data))
    kind = {PLY: "ply", GLB: "glb", OFF: "off", STL: "stl", OBJ: "obj"}[header.form]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about how trimesh reads text
            loaded = trimesh.load_scene(
                io.BytesIO(data), file_type=kind, process=False, skip_materials=True
            )
            cloud = _of_scene(loaded, header)
            colours = vertex_colours(data) if header.form == OFF else None
            if colours is None or len(colours) != len(cloud.points):
                return cloud
            return replace(cloud, attributes=_named(dict(zip(COLOUR, colours.T))))
    except BadValue:
        raise
    except Exception as error:  # trimesh raises whatever it stumbles over first
        raise BadValue(f"damaged {header.form}: {str(error)[:120]}") from error


def _of_polygons(read: Polygons) -> Cloud:
    points = np.stack([read.vertex[axis] for axis in "xyz"], 1).astype(np.float64)
    names = [n for n in read.vertex.dtype.names or () if n not in "xyz"]
    known = _named({name: read.vertex[name] for name in names})
    if read.faces.size and (read.faces.min() < 0 or read.faces.max() >= len(points)):
        raise BadValue(f"a face has point {read.faces.max():,} of {len(points):,}")
    known = {n: v for n, v in known.items() if n not in NORMAL or not len(read.faces)}
    return Cloud(points, known, read.faces if len(read.faces) else None)


def _of_scene(scene: Any, header: Declared) -> Cloud:
    """All parts of a scene at their places, as one."""
    graph = scene.graph
    places = [graph[node] for node in graph.nodes_geometry]
    sizes = [len(getattr(scene.geometry[name], "vertices", ())) for _, name in places]
    if sum(sizes) > MAX_POINTS:
        raise BadValue(f"{sum(sizes):,} points, of which {MAX_POINTS:,} are read at most")
    read = (_of_part(scene.geometry[name], matrix) for matrix, name in places)
    parts = [part for part in read if part is not None]
    if not parts:
        raise BadValue("0 points")
    if header.form in (PLY, OFF) and sum(sizes) < header.points:
        raise BadValue(
            f"truncated {header.form}: {sum(sizes):,} of {header.points:,} points are there"
        )
    y_up = header.form in (GLB, OBJ)
    meshes = [part for part in parts if part.faces is not None]
    parts = meshes or parts
    first = [0, *itertools.accumulate(len(part.points) for part in parts)]
    faces = [p.faces + n for p, n in zip(parts, first) if p.faces is not None]
    if header.form in (PLY, OFF) and sum(map(len, faces)) < header.faces:
        raise BadValue(
            f"truncated {header.form}: {sum(map(len, faces)):,} of {header.faces:,} faces have "
            "three corners"
        )
    shared = set.intersection(*(set(part.attributes) for part in parts))
    return Cloud(
        np.concatenate([part.points for part in parts]),
        {name: np.concatenate([part.attributes[name] for part in parts]) for name in shared},
        np.concatenate(faces) if faces else None,
        y_up,
    )


def _of_part(part: Any, matrix: np.ndarray) -> Cloud | None:
    points = np.asarray(getattr(part, "vertices", np.zeros((0, 3))), dtype=np.float64)
    if not len(points):
        return None
    faces = np.asarray(getattr(part, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
    if faces.size and (faces.min() < 0 or faces.max() >= len(points)):
        raise BadValue(f"a face has point {faces.max():,} of {len(points):,}")
    attributes: dict[str, np.ndarray] = {}
    element = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    names = getattr(getattr(element, "dtype", None), "names", None)
    names = names or (tuple(element) if isinstance(element, dict) else ())
    for name in names:
        values = np.asarray(element[name]).reshape(-1)
        if len(values) == len(points):
            attributes[name] = values
    visual = part.visual
    if not names and getattr(visual, "kind", None) == "vertex" and getattr(visual, "defined", True):
        colours = np.asarray(visual.vertex_colors).reshape(-1, 4)[:, :3]
        if len(colours) == len(points):
            attributes |= dict(zip(COLOUR, colours.T))
    turned = points @ matrix[:3, :3].T + matrix[:3, 3]
    known = _named(attributes)
    if set(NORMAL) <= set(known) and len(faces):
        known = {name: v for name, v in known.items() if name not in NORMAL}  # those of the faces
    return Cloud(turned, known, faces if len(faces) else None)


def _las(data: bytes) -> Cloud:
    laspy = _import("laspy")
    try:
        if data[LAS_FORMAT] & PACKED:
            _import("lazrs")
            check_chunks(data)
        # not the parallel one, which makes room for all chunks first
        file = laspy.read(io.BytesIO(data), laz_backend=laspy.LazBackend.Lazrs)
        points = np.stack([np.asarray(file.x), np.asarray(file.y), np.asarray(file.z)], 1)
        there = set(file.point_format.dimension_names)
        names = [n for n in (*COLOUR, *INTENSITY, LABEL) if n in there]
        attributes = {name: np.asarray(file[name]) for name in names}
    except BadValue:
        raise
    except BaseException as error:  # laspy raises whatever it stumbles over first
        # a panic of lazrs is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise BadValue(f"damaged LAS: {str(error)[:120]}") from error
    # formats have room for these whether or not they were measured
    for group in (INTENSITY, COLOUR, (LABEL,)):
        if not any(attributes[name].any() for name in group if name in attributes):
            attributes = {name: v for name, v in attributes.items() if name not in group}
    return Cloud(points.astype(np.float64), _named(attributes))


def _named(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attributes by our names, colours from 0 to 1; what we do not know is left out."""
    named: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        ours = NAMES.get(str(name).lower(), str(name).lower())
        if ours in (*ATTRIBUTES, LABEL) and ours not in named:
            named[ours] = np.asarray(values)
    for group in (COLOUR, NORMAL):
        if not set(group) <= set(named):
            named = {name: v for name, v in named.items() if name not in group}
    if COLOUR[0] in named:
        channels = [named[name] for name in COLOUR]
        top = max(float(np.nan_to_num(c).max(initial=0.0)) for c in channels)
        whole = all(c.dtype.kind in "ui" for c in channels)
        ends = (255.0, 65535.0) if whole else (1.0, 255.0, 65535.0)
        scale = next((end for end in ends if top <= end * ROUNDED), ends[-1])
        named |= {name: (c / scale).clip(0, 1) for name, c in zip(COLOUR, channels)}
    numbers = {name: values.astype(np.float32) for name, values in named.items()}
    return {n: np.where(np.isfinite(v), v, np.float32(np.nan)) for n, v in numbers.items()}


def _text(data: bytes) -> Cloud:
    """Lines of numbers, such as .xyz, .pts and .txt, with or without a line of names."""
    names, rows = table(data, {*NAMES, *ATTRIBUTES, LABEL} - {"r", "g", "b"})
    return _of_array(rows) if names is None else _of_dict(dict(zip(names, rows.T)))


def _of_dict(raw: Mapping[str, Any]) -> Cloud:
    columns = {str(name).lower(): values for name, values in raw.items()}
    if not set("xyz") <= set(columns) and POINTS not in columns:
        raise BadValue(
            f'points as a dict have "{POINTS}", or "x", "y" and "z", and any attributes; it has '
            f"{', '.join(map(str, raw)) or 'nothing'}"
        )
    if POINTS in columns:
        cloud = _of_array(columns[POINTS])
        points, known = cloud.points, dict(cloud.attributes)
    else:
        places = [_column(columns[axis], axis) for axis in "xyz"]
        if len(set(map(len, places))) > 1:
            raise BadValue(
                f"{', '.join(str(len(p)) for p in places)} numbers of x, y and z: there is one of "
                "each for every point"
            )
        points, known = np.stack(places, 1).astype(np.float64), {}
    rest = {n: v for n, v in columns.items() if n not in (POINTS, "x", "y", "z")}
    numbers = {
        name: _column(values, name)
        for name, values in rest.items()
        if NAMES.get(name, name) in (*ATTRIBUTES, LABEL)
    }
    for name, values in numbers.items():
        if len(values) != len(points):
            raise BadValue(f'{len(values)} of "{name}" for {len(points)} points')
    return Cloud(points, known | _named(numbers))


def _column(values: Any, name: str) -> np.ndarray:
    try:
        column = np.asarray(values)
        return column.reshape(-1) if column.dtype.kind in "buif" else column.astype(np.float64)
    except (TypeError, ValueError):
        raise BadValue(f'"{name}" is no column of numbers') from None


def _of_array(raw: object) -> Cloud:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"not an array of points: {error}") from None
    if array.dtype.kind not in "buif" or array.ndim != 2 or array.shape[1] not in LAYOUTS:
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is no cloud of points: "
            "expected numbers x, y, z in 3 columns, or with intensity, colour or normal in 4, 6, 7 "
            "or 9"
        )
    points, rest = array[:, :3].astype(np.float64), array[:, 3:]
    names = LAYOUTS[array.shape[1]]
    if names is None:
        length = np.linalg.norm(rest.astype(np.float64), axis=1)
        middle = float(np.median(length)) if len(length) else 0.0
        names = NORMAL if UNIT[0] < middle < UNIT[1] and (rest < 0).any() else COLOUR
    return Cloud(points, _named(dict(zip(names, rest.T))))
