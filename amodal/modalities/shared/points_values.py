"""Values of `Points`: what is made of a cloud or a mesh as it was read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.modalities.shared import points_files as _files
from amodal.modalities.shared import points_groups as _groups
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy
from amodal.modalities.shared.points_headers import OBJ, declared
from amodal.modalities.shared.requests import Limits, TooLarge, array_of, cells_of, file_of

if TYPE_CHECKING:
    from amodal.modalities.points import Points

POOL = 4
"""Points of a value, for each that a batch takes: what views draw from."""
MIN_LOOKED_AT = 16
"""Clouds that the spread of groups is measured on."""
SEED = 0
WORDS = {_files.COLOUR[0]: "colour", _files.NORMAL[0]: "normals", _files.INTENSITY[0]: "intensity"}
"""First channel of those that go together -> what people call them."""
SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 3},
        },
        {
            "type": "object",
            "properties": {_files.POINTS: {"type": "array", "minItems": 1}},
            "required": [_files.POINTS],
        },
    ]
}


@dataclass(frozen=True)
class Placed:
    """The points of a file, and where the tokens of its value lie among them.

    Attributes:
        value: decoded.
        points: (n, 3) float64, every point as the file has it; the corners of a mesh.
        position: (n, 3) float32, their places as positions of tokens are counted.
        channels: (n, C) of the field, in deviations from their mean; NaN where missing.
        label: (n,) classes as the file has them, None for none.
        up: number of the axis that is vertical.
    """

    value: np.ndarray
    points: np.ndarray
    position: np.ndarray
    channels: np.ndarray
    label: np.ndarray | None
    up: int = 2


def decoded(cloud: _files.Cloud, channels: Sequence[str], most: int) -> np.ndarray:
    """See `Points.decode`.

    Args:
        cloud: as it was read.
        channels: of the field.
        most: points of a batch.

    Raises:
        BadValue: a mesh without any area.
    """
    return _decoded(cloud, channels, most)[0]


def _decoded(
    cloud: _files.Cloud, channels: Sequence[str], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The value, and the mean of its points, (3,) float64."""
    whole = np.concatenate([cloud.points, _channels(cloud, channels)], 1)
    if cloud.faces is not None:
        whole = surface(whole, cloud.faces, channels, POOL * most)
    chosen = whole[_groups.in_order(whole, POOL * most)]
    middle = chosen[:, :3].mean(0)
    chosen[:, :3] -= middle
    return chosen.astype(np.float32), middle


def _channels(cloud: _files.Cloud, names: Sequence[str]) -> np.ndarray:
    """(n, C) float64, NaN where missing."""
    made = np.full((len(cloud.points), len(names)), np.nan)
    for i, name in enumerate(names):
        if name in cloud.attributes:
            made[:, i] = cloud.attributes[name]
    return made


def surface(
    corners: np.ndarray, faces: np.ndarray, channels: Sequence[str], count: int
) -> np.ndarray:
    """(count, 3 + C), points of the surface of a mesh; each area has its share of them, to one.

    Args:
        corners: (n, 3 + C) float64.
        faces: (f, 3) indices of corners.
        channels: names of the C columns; normals become those of the faces.
        count: of points.

    Raises:
        BadValue: the faces have no area.
    """
    a, b, c = (corners[faces[:, i], :3] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    total = area.sum()
    if not np.isfinite(total) or total <= 0:
        raise BadValue(f"a mesh of {len(faces):,} faces without any area")
    rng = np.random.default_rng(SEED)
    # evenly along the faces one after the other, so that no face has more than its share
    at_area = (np.arange(count) + rng.random(count)) / count * total
    face = np.searchsorted(np.cumsum(area), at_area).clip(max=len(faces) - 1)
    u, v = rng.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    corner = corners[faces[face]]
    made = corner[:, 0] + u * (corner[:, 1] - corner[:, 0]) + v * (corner[:, 2] - corner[:, 0])
    normals = cross[face] / area[face, None].clip(min=1e-300)
    for i, name in enumerate(_files.NORMAL):
        if name in channels:
            made[:, 3 + list(channels).index(name)] = normals[:, i]
    out: np.ndarray = made
    return out


def placed(raw: Raw | None, points: Points) -> Placed:
    """See `Points.place_points`.

    Raises:
        BadValue: it cannot be decoded.
    """
    if raw is None:
        raise BadValue("no value")
    cloud = _files.read(raw)
    value, middle = _decoded(cloud, points.channels, points.points)
    value = points.bounded(value)
    centre, radius = _groups.frame(_groups.thinned(value, points.points), points)
    where = (cloud.points - middle - centre) / (radius or 1.0)
    mean, std = (np.asarray(s) for s in points.moments())
    return Placed(
        value,
        cloud.points,
        _groups.positions(where),
        (_channels(cloud, points.channels) - mean) / std,
        cloud.attributes.get(_files.LABEL),
        "xyz".index(points.vertical),
    )


def spread(values: Sequence[np.ndarray], points: Points) -> float:
    """Root of the mean squared distance of points from the centres of their groups, in radii."""
    evenly = np.unique(np.linspace(0, len(values) - 1, MIN_LOOKED_AT).astype(int))
    flat = _groups.groups_of([values[i] for i in evenly], points).flat[:, _groups.PLACE :]
    near = flat.unflatten(1, (points.neighbours, -1))[..., :3].double() * _groups.SPREAD
    squares = near.square().sum(2)
    mean = squares[squares.isfinite()].mean().sqrt().item()
    return float(f"{mean:.4g}") or _groups.SPREAD


def regions(value: np.ndarray, points: Points) -> np.ndarray:
    """(n,) int64, the number of the nearest of a few centres, as many as half the groups."""
    places = value[:, :3]
    size = np.sqrt(np.square(places).sum(1).max()) or 1.0
    places = (places / size).astype(np.float32)
    count = max(1, min(points.groups, -(-2 * len(value) // points.neighbours)) // 2)
    (index,) = _groups.farthest([places], [max(count, min(2, len(value)))])
    from scipy.spatial import cKDTree

    number: np.ndarray = cKDTree(places[index]).query(places)[1]
    return number.astype(np.int64)


def mean(value: np.ndarray, column: int) -> float | None:
    """The mean of a column, None where nothing is known."""
    known = value[np.isfinite(value[:, column]), column]
    return float(known.mean()) if len(known) else None


def names_of(channels: Collection[str]) -> str:
    """What people call the channels, after a comma; "" for none."""
    return "".join(f", {words}" for first, words in WORDS.items() if first in channels)


def counts(values: Sequence[Raw]) -> tuple[list[int], float, float]:
    """Points of clouds and corners of meshes, the share of meshes, and that of points at (0, 0, 0)
    that were left out, of those that are read."""
    clouds = []
    for raw in values:
        try:
            clouds.append(_files.read(raw))
        except BadValue:
            continue
    meshes = sum(cloud.faces is not None for cloud in clouds)
    sizes, unmeasured = [len(c.points) for c in clouds], sum(c.unmeasured for c in clouds)
    everything = max(sum(sizes) + unmeasured, 1)
    return sizes, meshes / max(len(clouds), 1), unmeasured / everything


def checked(raw: Any, limits: Limits) -> Raw:
    """An untrusted cloud, after a look at its header.

    Args:
        raw: bytes of a file, or parsed JSON: lists of x, y and z, or {"points": lists, …}.
        limits: of the cost; the number of entries is that of points.

    Raises:
        TooLarge: it would cost more than `limits` allow.
        BadValue: it is of another kind, or damaged.
    """
    if not isinstance(raw, bytes) or raw.lstrip()[:1] in (b"{", b"["):
        return cells_of(raw, limits)
    data = file_of(raw)
    if is_numpy(data):
        array = array_of(data)
        _check(len(array) if array.ndim else 0, limits)
        return array
    found = declared(data)
    _check(max(found.points, found.faces), limits)
    if found.form == OBJ:
        _check(data.count(b"\n"), limits)
    return data


def _check(points: int, limits: Limits) -> None:
    if points > limits.entries:
        raise TooLarge(f"{points:,} points or faces; at most {limits.entries:,} are read")
