"""Binary PLY whose faces have different numbers of corners, which trimesh does not read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.points_headers import PLY_KINDS, ply_header

CORNERS = ("vertex_indices", "vertex_index")
"""Names of the list of a face."""


@dataclass(frozen=True)
class Polygons:
    """What a file holds.

    Attributes:
        vertex: (n,) of one number a property.
        faces: (f, 3) int64, fans of the polygons.
    """

    vertex: np.ndarray
    faces: np.ndarray


def has_polygons(data: bytes) -> bool:
    """Whether the faces of a binary PLY have different numbers of corners, by its length.

    Args:
        data: the file, whose header is right.
    """
    form, elements, start = ply_header(data)
    order = ">" if "big" in form else "<"
    for name, count, properties in elements:
        sizes = [[np.dtype(order + PLY_KINDS[k]) for k in kinds] for kinds in properties.values()]
        lists = [types for types in sizes if len(types) == 2]
        if not lists:
            start += count * sum(types[0].itemsize for types in sizes)
        elif name != "face" or len(lists) > 1 or not count or sizes[0] not in lists:
            return bool(lists) and name == "face" and bool(count)
        else:
            if start + lists[0][0].itemsize > len(data):
                return False
            length = int(np.frombuffer(data, lists[0][0], 1, start)[0])
            row = sum(t[0].itemsize for t in sizes) + length * lists[0][1].itemsize
            if start + count * row != len(data):
                return True
            # a file that is cut may have the length of another
            each = np.ndarray(count, lists[0][0], data, start, (row,))
            return bool((each != length).any())
    return False


def read_polygons(data: bytes) -> Polygons:
    """A binary PLY, its lists one after the other.

    Args:
        data: the file, whose header is right.

    Raises:
        BadValue: it is truncated, or has no x, y and z.
    """
    form, elements, start = ply_header(data)
    order = ">" if "big" in form else "<"
    vertex: np.ndarray = np.zeros(0)
    faces = np.zeros((0, 3), dtype=np.int64)
    for name, count, properties in elements:
        if not properties:
            continue
        if all(len(kinds) == 1 for kinds in properties.values()):
            kind = np.dtype([(n, order + PLY_KINDS[k[0]]) for n, k in properties.items()])
            if start + count * kind.itemsize > len(data):
                raise BadValue(f"truncated PLY: {len(data):,} bytes do not hold its {name}")
            rows = np.frombuffer(data, kind, count, start)
            start += count * kind.itemsize
            vertex = rows if name == "vertex" else vertex
        else:
            lists, start = _lists(data, start, count, properties, order)
            faces = _fans(lists) if name == "face" else faces
    if not set("xyz") <= set(vertex.dtype.names or ()):
        raise BadValue("a PLY without x, y and z")
    return Polygons(vertex, faces)


def _lists(
    data: bytes, start: int, count: int, properties: dict[str, tuple[str, ...]], order: str
) -> tuple[list[np.ndarray], int]:
    """The list of corners of each row, and where the rows end."""
    kinds = [
        (n in CORNERS, [np.dtype(order + PLY_KINDS[k]) for k in p]) for n, p in properties.items()
    ]
    found = []
    for _ in range(count):
        for wanted, types in kinds:
            length = 1
            if len(types) == 2:
                if start + types[0].itemsize > len(data):
                    raise BadValue("truncated PLY: its faces do not end")
                length = int(np.frombuffer(data, types[0], 1, start)[0])
                start += types[0].itemsize
            size = length * types[-1].itemsize
            if length < 0 or start + size > len(data):
                raise BadValue("truncated PLY: its faces do not end")
            if wanted:
                found.append(np.frombuffer(data, types[-1], length, start).astype(np.int64))
            start += size
    return found, start


def _fans(polygons: list[np.ndarray]) -> np.ndarray:
    """(f, 3): triangles from the first corner of each polygon to its other sides."""
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for count in sorted({len(p) for p in polygons} - {0, 1, 2}):
        same = np.stack([p for p in polygons if len(p) == count])
        for i in range(1, count - 1):
            parts.append(same[:, [0, i, i + 1]])
    return np.concatenate(parts)
