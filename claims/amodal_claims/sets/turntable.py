"""2,880 generated pairs of pictures of an object before and after it was turned, with the turn: 240
objects of eight kinds.

Source: drawn here, the same in every process. Licence: CC0-1.0. Left out: texture, perspective,
shadows, hands, clutter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from amodal.data.schema import Label
from amodal.data.sets.shared import writing as _writing

PACKAGES = ()
LICENCE = "CC0-1.0"
OBJECTS, PAIRS, SIDE, POINTS = 30, 12, 32, 12000
RECORDS = 8 * OBJECTS * PAIRS
TURN, TILT = 90.0, 25.0
"""The largest turn about the upright axis and the largest tilt towards the camera, in degrees."""


def write(out: Path, archives: list[Path]) -> None:
    rows = [row for kind in KINDS for number in range(OBJECTS) for row in pairs(kind, number)]
    _writing.records(out, {name: [row[name] for row in rows] for name in rows[0]})
    # Never flipped: a mirrored object has turned the other way.
    picture = {"size": SIDE, "channels": 3, "patch": 8, "flip": False}
    fields = {
        "first": _writing.field("image", **picture),
        "second": _writing.field("image", **picture),
        "action": _writing.field("table", columns=["turn", "tilt"]),
    }
    labels: dict[str, Label | str] = {"kind": "category", "object": "category"}
    labels |= {name: Label("number", unit="degree") for name in ("yaw", "pitch")}
    _writing.describe(
        out,
        fields,
        labels,
        title="Objects before and after a turn",
        licence=LICENCE,
        split_by="object",
    )


def pairs(kind: str, number: int) -> list[dict[str, Any]]:
    """The records of an object: pictures from random sides, each with one after a random turn.

    Args:
        kind: one of KINDS.
        number: of the object.
    """
    rng = np.random.default_rng([11, list(KINDS).index(kind), number])
    points, normals = KINDS[kind](rng)
    centre, reach = points.mean(0), np.linalg.norm(points - points.mean(0), axis=1).max()
    points, paint = (points - centre) / reach, rng.uniform(0.35, 1.0, 3)
    rows = []
    for i in range(PAIRS):
        yaw, pitch = rng.uniform(0, 360), rng.uniform(0, 35)
        turn = rng.uniform(-TURN, TURN)
        tilt = np.clip(pitch + rng.uniform(-TILT, TILT), 0, 35) - pitch
        rows.append(
            {
                "key": f"{kind}-{number:02d}-{i:02d}",
                "first": png(render(points, normals, paint, yaw, pitch)),
                "second": png(render(points, normals, paint, yaw + turn, pitch + tilt)),
                "action": {"turn": turn, "tilt": tilt},
                "kind": kind,
                "object": f"{kind}-{number:02d}",
                "yaw": yaw,
                "pitch": pitch,
            }
        )
    return rows


def render(
    points: np.ndarray, normals: np.ndarray, paint: np.ndarray, yaw: float, pitch: float
) -> np.ndarray:
    """Render an object without perspective, lit from the camera's upper left.

    Args:
        points: (n, 3) of its surface.
        normals: (n, 3).
        paint: (3,) its colour.
        yaw: about the upright axis, in degrees.
        pitch: towards the camera, in degrees.

    Returns:
        (SIDE, SIDE, 3) uint8, the nearest point of each pixel.
    """
    a, b = np.deg2rad([yaw, pitch])
    about = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    towards = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    seen, facing = points @ (towards @ about).T, normals @ (towards @ about).T
    light = np.array([-0.4, 0.6, 0.7]) / np.linalg.norm([-0.4, 0.6, 0.7])
    shade = 0.3 + 0.7 * np.clip(facing @ light, 0, 1)
    x, y = (
        np.clip((v * 0.48 + 0.5) * SIDE, 0, SIDE - 1).astype(int) for v in (seen[:, 0], -seen[:, 1])
    )
    canvas = np.full((SIDE, SIDE, 3), 0.12)
    near = np.argsort(seen[:, 2])  # painted from the back, so that what is near stays
    canvas[y[near], x[near]] = shade[near, None] * paint
    return (canvas * 255).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """The content of a .png file."""
    packed = BytesIO()
    Picture.fromarray(picture).save(packed, "PNG")
    return packed.getvalue()


Surface = tuple[np.ndarray, np.ndarray]
"""(n, 3) points and (n, 3) outward normals: x to the right, y up, z to the camera."""
Vector = Sequence[float]


def box(rng: np.random.Generator, size: Vector, centre: Vector) -> Surface:
    """An upright box.

    Args:
        rng: of the points.
        size: its extent in x, y and z.
        centre: its middle.
    """
    sides = np.array(size)
    area = np.prod(size) / sides
    n = POINTS // 8
    axis = rng.choice(3, n, p=area / area.sum())
    side = rng.choice([-1.0, 1.0], n)
    points, normals = rng.uniform(-0.5, 0.5, (n, 3)), np.zeros((n, 3))
    points[np.arange(n), axis], normals[np.arange(n), axis] = side / 2, side
    return points * sides + centre, normals


def cylinder(rng: np.random.Generator, size: Vector, centre: Vector, top: float = 1.0) -> Surface:
    """An upright cylinder or cone.

    Args:
        rng: of the points.
        size: its extent in x, y and z.
        centre: its middle.
        top: the upper radius over the lower one.
    """
    n = POINTS // 8
    angle, height = rng.uniform(0, 2 * np.pi, n), rng.uniform(-0.5, 0.5, n)
    radius = 0.5 * (1 + (top - 1) * (height + 0.5))
    lid = rng.random(n) < 0.3
    height = np.where(lid, np.where(rng.random(n) < 0.5, -0.5, 0.5), height)
    radius = np.where(lid, np.where(height < 0, 0.5, 0.5 * top) * np.sqrt(rng.random(n)), radius)
    points = np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], 1)
    normals = np.stack([np.cos(angle), np.full(n, 0.5 * (1 - top)), np.sin(angle)], 1)
    normals[lid] = np.stack([0 * height, np.sign(height), 0 * height], 1)[lid]
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return points * np.array(size) + centre, unit


def ball(rng: np.random.Generator, size: Vector, centre: Vector) -> Surface:
    """An ellipsoid."""
    normals = rng.normal(size=(POINTS // 8, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return normals * np.array(size) / 2 + centre, normals


def handle(rng: np.random.Generator, radius: float, centre: Vector) -> Surface:
    """A ring in the plane of x and y, of radius `radius`."""
    a, b = rng.uniform(0, 2 * np.pi, (2, POINTS // 8))
    normals = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], 1)
    middle = radius * np.stack([np.cos(a), np.sin(a), 0 * a], 1)
    return middle + 0.12 * normals + centre, normals


def joined(*parts: Surface) -> Surface:
    """The points of all parts."""
    return np.concatenate([p for p, _ in parts]), np.concatenate([n for _, n in parts])


def legs(
    rng: np.random.Generator, width: float, depth: float, height: float, thick: float
) -> list[Surface]:
    """Four legs below a box."""
    places = [
        (x * (width - thick) / 2, -height / 2, z * (depth - thick) / 2)
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    return [box(rng, (thick, height, thick), centre) for centre in places]


def mug(rng: np.random.Generator) -> Surface:
    wide, tall = rng.uniform(0.8, 1.2), rng.uniform(0.9, 1.5)
    return joined(
        cylinder(rng, (wide, tall, wide), (0, 0, 0)),
        handle(rng, tall * rng.uniform(0.25, 0.32), (wide / 2, 0, 0)),
    )


def chair(rng: np.random.Generator) -> Surface:
    w, d, h, back = (
        rng.uniform(0.8, 1.1),
        rng.uniform(0.8, 1.1),
        rng.uniform(0.7, 1.1),
        rng.uniform(0.8, 1.3),
    )
    seat, rest = (
        box(rng, (w, 0.15, d), (0, 0.07, 0)),
        box(rng, (w, back, 0.15), (0, back / 2, -d / 2)),
    )
    return joined(seat, rest, *legs(rng, w, d, h, 0.15))


def table(rng: np.random.Generator) -> Surface:
    w, d, h = rng.uniform(1.4, 2.0), rng.uniform(0.8, 1.2), rng.uniform(0.7, 1.1)
    return joined(box(rng, (w, 0.15, d), (0, 0.07, 0)), *legs(rng, w, d, h, 0.18))


def lamp(rng: np.random.Generator) -> Surface:
    tall, wide, arm = rng.uniform(1.2, 1.8), rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.7)
    pole, foot = (
        cylinder(rng, (0.12, tall, 0.12), (0, 0, 0)),
        cylinder(rng, (0.7, 0.12, 0.7), (0, -tall / 2, 0)),
    )
    beam = box(rng, (arm, 0.12, 0.12), (arm / 2, tall / 2, 0))
    return joined(
        pole, foot, beam, cylinder(rng, (wide, 0.6, wide), (arm, tall / 2 - 0.2, 0), top=0.4)
    )


def house(rng: np.random.Generator) -> Surface:
    w, d, h = rng.uniform(1.2, 1.8), rng.uniform(0.8, 1.1), rng.uniform(0.7, 1.1)
    chimney = box(rng, (0.2, 0.7, 0.2), (w / 3, h / 2 + 0.35, 0))
    return joined(
        box(rng, (w, h, d), (0, 0, 0)),
        cylinder(rng, (w * 1.1, 0.7, d * 1.1), (0, h / 2 + 0.35, 0), top=0.05),
        chimney,
    )


def car(rng: np.random.Generator) -> Surface:
    long, tall, wide = rng.uniform(1.7, 2.3), rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.0)
    cabin = box(
        rng,
        (long * rng.uniform(0.35, 0.5), 0.4, wide * 0.9),
        (-long * rng.uniform(0.05, 0.2), tall / 2 + 0.2, 0),
    )
    wheels = [
        ball(rng, (0.4, 0.4, 0.2), (x * long / 3, -tall / 2, z * wide / 2))
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    return joined(box(rng, (long, tall, wide), (0, 0, 0)), cabin, *wheels)


def plane(rng: np.random.Generator) -> Surface:
    long, span = rng.uniform(1.8, 2.4), rng.uniform(1.6, 2.4)
    wing, tail = (
        box(rng, (0.45, 0.08, span), (0.1, 0, 0)),
        box(rng, (0.3, 0.6, 0.08), (-long * 0.45, 0.3, 0)),
    )
    return joined(
        ball(rng, (long, 0.4, 0.4), (0, 0, 0)),
        wing,
        tail,
        box(rng, (0.25, 0.08, span / 3), (-long * 0.45, 0.1, 0)),
    )


def weight(rng: np.random.Generator) -> Surface:
    long, a, b = rng.uniform(1.4, 2.0), rng.uniform(0.6, 0.9), rng.uniform(0.4, 0.6)
    ends = ball(rng, (a, a, a), (-long / 2, 0, 0)), ball(rng, (b, b, b), (long / 2, 0, 0))
    return joined(*ends, box(rng, (long, 0.2, 0.2), (0, 0, 0)))


KINDS: dict[str, Callable[[np.random.Generator], Surface]] = {
    "mug": mug,
    "chair": chair,
    "table": table,
    "lamp": lamp,
    "house": house,
    "car": car,
    "plane": plane,
    "weight": weight,
}
