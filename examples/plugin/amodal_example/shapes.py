"""120 generated balls, rods and rings as point clouds, most with a caption.

Source: drawn here, the same in every process. Licence: CC0-1.0. `cloud`: 100 to 160 points on the
surface, in any direction in space, with a little noise; `text`: "a large ring", missing for every
fifth. Labels: `shape`, and `size`, the radius of a ball or ring and half the length of a rod.
Left out: corners, colours, holes, several shapes in a cloud.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS = 120
SHAPES = ("ball", "rod", "ring")
THICKNESS, NOISE = 0.15, 0.02  # of rods and rings, and of all, in sizes


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    records(out, {name: [row[name] for row in rows] for name in rows[0]})
    describe(
        out,
        {"cloud": field("cloud"), "text": field("text")},
        {"shape": "category", "size": "number"},
        title="Generated shapes as point clouds",
        licence=LICENCE,
    )


def record(i: int) -> dict[str, Any]:
    """The record of a number."""
    rng = np.random.default_rng([29, i])
    shape, size = SHAPES[i % len(SHAPES)], rng.uniform(0.5, 2)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    stream = io.BytesIO()
    np.save(stream, (size * surface(shape, rng) @ turn).astype(np.float32))
    caption = f"a {'large' if size > 1.25 else 'small'} {shape}"
    return {
        "key": f"{i:03}",
        "cloud": stream.getvalue(),
        "text": None if i % 5 == 4 else caption,
        "shape": shape,
        "size": round(float(size), 3),
    }


def surface(shape: str, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) points of a shape of size 1 around the origin."""
    count = int(rng.integers(100, 161))
    points = rng.standard_normal((count, 3))
    if shape == "ball":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    else:
        points *= THICKNESS / np.linalg.norm(points, axis=1, keepdims=True)
        angle = rng.uniform(-np.pi, np.pi, count)
        if shape == "rod":
            points[:, 2] += angle / np.pi
        else:
            points[:, :2] += np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + NOISE * rng.standard_normal(points.shape)
