"""1,500 generated scenes of solids and flat shapes on a table, in colour and in depth, with the
class of every pixel.

Source: drawn here, the same in every process. Licence: CC0-1.0. Each scene of 24 x 24 pixels, seen
from above, holds two to four of five things: ball, box and cone stand out, disc and tile are flat.
Half of the solids are painted like the table, so that colour hardly shows them, and depth does not
show what is flat. `depth` is bright where it is near. `areas` are class numbers: 0 table, 1 to 5
things in that order. `spoilt` makes fog in colour or a hole in depth, at a known place. Left out:
perspective, cast shadows, texture, real sensors' noise.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SIDE = 1500, 24
THINGS = ("ball", "box", "cone", "disc", "tile")
SOLID = 3  # the first three
LIGHT = np.array([-0.4, -0.6, 0.7]) / np.linalg.norm([-0.4, -0.6, 0.7])


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    small = {"size": SIDE, "patch": 4, "flip": False}
    fields = {
        "colour": field("image", channels=3, **small),
        "depth": field("image", channels=1, **small),
        "areas": field("image", channels=1, mean=(0.0,), std=(1.0,), **small),
    }
    describe(
        out,
        fields,
        {"count": "category"},
        title="Generated scenes in colour and depth with classes",
        licence=LICENCE,
    )


def record(i: int) -> dict[str, Any]:
    """Record i: its key, pictures and label."""
    colour, depth, areas, count = scene(np.random.default_rng([6, i]))
    return {
        "key": f"scene-{i:04d}",
        "colour": png(colour),
        "depth": png(depth),
        "areas": png(areas),
        "count": str(count),
    }


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Draw a scene. Later things lie on top of earlier ones.

    Args:
        rng: of the scene.

    Returns:
        Colour (SIDE, SIDE, 3), depth and class numbers (SIDE, SIDE), all uint8, and the number of
        things.
    """
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    table = rng.uniform(0.3, 0.8, 3)
    slope = rng.uniform(-0.1, 0.1, 2)
    height = 3 + slope[0] * (x - SIDE / 2) + slope[1] * (y - SIDE / 2)
    paint, areas = np.broadcast_to(table, (SIDE, SIDE, 3)).copy(), np.zeros((SIDE, SIDE), np.uint8)
    count = int(rng.integers(2, 5))
    for _ in range(count):
        kind, size, angle = (
            int(rng.integers(len(THINGS))),
            rng.uniform(3.5, 5.5),
            rng.uniform(0, np.pi),
        )
        u, v = x - rng.uniform(4, SIDE - 4), y - rng.uniform(4, SIDE - 4)
        u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
        inside, above = shape(THINGS[kind], u, v, size)
        hidden = kind < SOLID and rng.random() < 0.5
        thing_paint = table if hidden else np.clip(rng.uniform(0, 1, 3), 0.05, 1)
        height = np.where(inside, height + above, height)
        paint[inside], areas[inside] = thing_paint, kind + 1
    down, along = np.gradient(height)
    normal = np.stack([-along, -down, np.ones_like(height)], -1)
    shade = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)) @ LIGHT
    colour = paint * (0.7 + 0.3 * np.clip(shade, 0, 1))[..., None] + rng.normal(
        0, 0.03, (SIDE, SIDE, 3)
    )
    depth = height / 16 + rng.normal(0, 0.02, (SIDE, SIDE))
    return as_bytes(colour), as_bytes(depth), areas, count


def shape(kind: str, u: np.ndarray, v: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The shape of a thing.

    Args:
        kind: one of THINGS.
        u: (SIDE, SIDE) coordinates of pixels from its middle.
        v: the other coordinates.
        size: in pixels.

    Returns:
        (SIDE, SIDE) bool, the pixels that it covers, and (SIDE, SIDE) its height.
    """
    far = np.hypot(u, v)
    if kind in ("box", "tile"):
        inside = np.maximum(np.abs(u), np.abs(v)) <= 0.8 * size
    else:
        inside = far <= size
    above = {
        "ball": np.sqrt(np.maximum(size**2 - far**2, 0)),
        "box": 0 * far + 3,
        "cone": 1.4 * np.maximum(size - far, 0),
    }
    return inside, above.get(kind, 0 * far)


def spoilt(
    colour: np.ndarray, depth: np.ndarray, rng: np.random.Generator, field: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spoil a scene with fog over colour or a hole in depth.

    Args:
        colour: (SIDE, SIDE, 3) uint8.
        depth: (SIDE, SIDE) uint8.
        rng: of the place.
        field: "colour" or "depth".

    Returns:
        Colour, depth, and (SIDE, SIDE) bool: the place, an ellipse of about a third of the scene.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    middle, reach = rng.uniform(6, SIDE - 6, 2), rng.uniform(7, 10, 2)
    where = ((y - middle[0]) / reach[0]) ** 2 + ((x - middle[1]) / reach[1]) ** 2 < 1
    if field == "depth":
        return colour, np.where(where, 0, depth).astype(np.uint8), where
    fog = as_bytes(0.75 + rng.normal(0, 0.05, colour.shape) + 0.05 * (colour / 255.0 - 0.5))
    return np.where(where[..., None], fog, colour).astype(np.uint8), depth, where


def as_bytes(shares: np.ndarray) -> np.ndarray:
    """Shares in 0 … 1 as uint8."""
    return np.asarray(np.clip(np.rint(shares * 255), 0, 255), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The content of a .png file."""
    packed = io.BytesIO()
    Picture.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()
