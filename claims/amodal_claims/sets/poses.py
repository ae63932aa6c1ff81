"""1,800 generated views of objects of three kinds in colour and as points in space, half of them
spoilt like those of a real sensor.

Source: drawn here, the same in every process. Licence: CC0-1.0. 60 mugs, 60 chairs and 60 cars (the
shapes of `turntable`), ten views each, five rendered clean and five "sensed": other colours,
darker, in front of clutter; depth with noise, flying pixels and holes. `colour`: a crop of 24 x 24
pixels; `points`: x to the right, y up, z to the camera of what each pixel sees, in decimetres from
the mean of what is seen, 0 where that is nothing; `coordinates`: where on the object it lies, its
bounding box having the diagonal 1 and the middle (.5, .5, .5). Labels: `rendered` ("yes", missing
where sensed), kind, object, and the pose: `turn` and `tilt` in degrees (`pose` makes the rotation),
`size` (the diagonal) and `x`, `y`, `z` (the middle) in decimetres. Left out: occlusion, hands,
textures, turns of more than 75 degrees, objects of other kinds.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.schema import Label
from amodal.data.sets.shared.writing import describe, field, records
from amodal_claims.sets import turntable

PACKAGES = ()
LICENCE = "CC0-1.0"
KINDS, OBJECTS, VIEWS, SIDE = ("mug", "chair", "car"), 60, 10, 24
RECORDS = len(KINDS) * OBJECTS * VIEWS
POSE = ("turn", "tilt", "size", "x", "y", "z")
FLYING, HOLES, NOISE = 0.08, 3, 0.04  # share of pixels, number, decimetres


def write(out: Path, archives: list[Path]) -> None:
    rows = [
        view(k, number, i)
        for k in range(len(KINDS))
        for number in range(OBJECTS)
        for i in range(VIEWS)
    ]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    small = {"size": SIDE, "patch": 4, "channels": 3, "flip": False}
    labels: dict[str, Label | str] = dict.fromkeys(("kind", "object", "rendered"), "category")
    labels |= {
        name: Label("number", unit="degree" if name in POSE[:2] else "decimetre") for name in POSE
    }
    fields = {name: field("image", **small) for name in ("colour", "points", "coordinates")}
    describe(
        out,
        fields,
        labels,
        title="Generated views of objects in space",
        licence=LICENCE,
        split_by="object",
    )


def view(kind: int, number: int, i: int) -> dict[str, Any]:
    """The record of a view.

    Args:
        kind: index into KINDS.
        number: of the object.
        i: of the view.
    """
    object_rng = np.random.default_rng([73, kind, number])
    points, normals = turntable.KINDS[KINDS[kind]](object_rng)
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / np.linalg.norm(high - low)
    size, paint = object_rng.uniform(1.5, 3.0), object_rng.uniform(0.3, 1.0, 3)
    rng = np.random.default_rng([73, kind, number, i])
    rendered = i % 2 == 0
    turn, tilt = rng.uniform(-75, 75), rng.uniform(10, 50)
    colour, seen, coordinates, centre = render(
        points, normals, paint, pose(turn, tilt), size, rng.uniform(6, 12)
    )
    if not rendered:
        colour, seen = sensed(colour, seen, rng)
    visible = (seen != 0).any(2)
    middle = seen[visible].mean(0)
    seen = np.where(visible[..., None], seen - middle, 0)
    where = dict(zip(POSE, (turn, tilt, size, *(centre - middle))))
    return {
        "key": f"{KINDS[kind]}-{number:02d}-{i}",
        "colour": turntable.png((colour.clip(0, 1) * 255).astype(np.uint8)),
        "points": npy(seen),
        "coordinates": npy(np.where(visible[..., None], coordinates, 0)),
        "kind": KINDS[kind],
        "object": f"{KINDS[kind]}-{number:02d}",
        "rendered": "yes" if rendered else None,
        **{name: float(v) for name, v in where.items()},
    }


def pose(turn: float, tilt: float) -> np.ndarray:
    """The rotation matrix of an object.

    Args:
        turn: about its upright axis, in degrees.
        tilt: towards the camera, in degrees.

    Returns:
        (3, 3).
    """
    a, b = np.deg2rad([turn, tilt])
    about = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    towards = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return np.asarray(towards @ about)


def render(
    points: np.ndarray,
    normals: np.ndarray,
    paint: np.ndarray,
    rotation: np.ndarray,
    size: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Render an object in perspective. The camera is at the origin and points at its middle.

    Args:
        points: (n, 3) on the object.
        normals: (n, 3) of its surface.
        paint: (3,) its colour.
        rotation: (3, 3).
        size: of its diagonal, in decimetres.
        distance: of its middle, in decimetres.

    Returns:
        Of the nearest point of each pixel of a crop: its colour, its position and its coordinates
        on the object, (SIDE, SIDE, 3) each, zeros where there is none; and (3,) the object's
        middle.
    """
    centre = np.array([0, 0, -distance])
    placed, facing = size * points @ rotation.T + centre, normals @ rotation.T
    flat = placed[:, :2] / -placed[:, 2:]
    low, high = flat.min(0), flat.max(0)
    x, y = (((flat - (low + high) / 2) / (high - low).max() * 0.98 + 0.5) * SIDE).astype(int).T
    near = np.argsort(placed[:, 2])  # painted from the back
    pixel = SIDE - 1 - y[near], x[near]
    shade = 0.35 + 0.65 * np.clip(facing[near] @ (np.array([-0.4, 0.6, 0.7]) / 1.005), 0, 1)
    colour, seen, coordinates = (np.zeros((SIDE, SIDE, 3)) for _ in range(3))
    colour[pixel], seen[pixel], coordinates[pixel] = (
        shade[:, None] * paint,
        placed[near],
        points[near] + 0.5,
    )
    return colour, seen, coordinates, centre


def sensed(
    colour: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A view as a poor sensor records it: other light and clutter in colour; noise, flying pixels
    and holes in depth.

    Args:
        colour: (SIDE, SIDE, 3).
        seen: (SIDE, SIDE, 3) points, 0 where there is none.
        rng: of the faults.

    Returns:
        Both with the faults.
    """
    visible = (seen != 0).any(2)
    light = rng.uniform(0.3, 0.8, 3) * colour[..., rng.permutation(3)] ** rng.uniform(0.7, 1.4)
    clutter = np.kron(rng.uniform(0, 0.8, (6, 6, 3)), np.ones((SIDE // 6, SIDE // 6, 1)))
    colour = np.where(visible[..., None], light, clutter) + rng.normal(0, 0.05, colour.shape)
    along = rng.normal(0, NOISE, visible.shape)
    along = np.where(rng.random(visible.shape) < FLYING, rng.uniform(-2, 2, visible.shape), along)
    distance = np.linalg.norm(seen, axis=2, keepdims=True)
    moved = seen * (1 + along[..., None] / np.maximum(distance, 1e-9))
    y, x = np.mgrid[:SIDE, :SIDE]
    hole = np.zeros_like(visible)
    for middle in rng.uniform(3, SIDE - 3, (HOLES, 2)):
        hole |= np.hypot(y - middle[0], x - middle[1]) < rng.uniform(1.5, 3.5)
    return colour, np.where(
        (visible & ~hole)[..., None] if (visible & ~hole).sum() > 30 else visible[..., None],
        moved,
        0,
    )


def npy(values: np.ndarray) -> bytes:
    """The content of a .npy file, in float16."""
    packed = io.BytesIO()
    np.save(packed, values.astype(np.float16))
    return packed.getvalue()
