"""What views of clouds are made of: turns about the vertical, other sizes, noise, and fewer
points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.modalities.shared.points_files import NORMAL

SHARES = {"weak": (1.0, 1.0), "strong": (0.5, 1.0), "local": (0.15, 0.4)}
"""Views -> share of a cloud's points that lie about one of them, from and to."""
SIZES = {"weak": (0.9, 1.1), "strong": (2 / 3, 3 / 2), "local": (2 / 3, 3 / 2)}
"""Views -> factors of each axis, from and to; the wider ones are those of PointNet++'s and
Point-MAE's code."""
NOISE = {"weak": 0.005, "strong": 0.01, "local": 0.01}
"""Deviation of the places of points, in radii."""
NOISE_LIMIT = 0.05
DROPPED = 0.5
"""Share of the points that a strong view lacks at most (PointNet++'s random dropout)."""
AXES = "xyz"


def crop(value: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The points nearest to one of them.

    Args:
        value: (n, 3 + C).
        share: of the points.
        rng: the only source of randomness.
    """
    count = max(1, round(share * len(value)))
    if count >= len(value):
        return value
    middle = value[int(rng.integers(len(value))), :3]
    distance = np.square(value[:, :3] - middle).sum(1)
    out: np.ndarray = value[np.sort(np.argsort(distance, kind="stable")[:count])]
    return out


def drawn(value: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many points, drawn anew."""
    if len(value) <= most:
        return value
    out: np.ndarray = value[np.sort(rng.choice(len(value), most, replace=False))]
    return out


def turned(
    value: np.ndarray, up: str, attributes: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """By any angle about the vertical, normals too.

    Args:
        value: (n, 3 + C).
        up: the axis that is vertical.
        attributes: names of the C columns.
        rng: the only source of randomness.
    """
    angle = rng.uniform(0, 2 * np.pi)
    first, second = (AXES.index(axis) for axis in AXES if axis != up)
    out = value.copy()
    columns = [(first, second)]
    if NORMAL[0] in attributes:
        a, b = (3 + list(attributes).index(NORMAL[i]) for i in (first, second))
        columns.append((a, b))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    for a, b in columns:
        out[:, a], out[:, b] = (
            cos * value[:, a] - sin * value[:, b],
            sin * value[:, a] + cos * value[:, b],
        )
    return out


def resized(
    value: np.ndarray, factors: tuple[float, float], noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Each axis of another length, and each point moved a little.

    Args:
        value: (n, 3 + C).
        factors: of an axis, from and to, drawn on a scale of ratios.
        noise: deviation, in radii.
        rng: the only source of randomness.
    """
    out = value.copy()
    radius = np.sqrt(np.square(value[:, :3]).sum(1).max())
    low, high = np.log(factors)
    factor = np.exp(rng.uniform(low, high, 3)).astype(np.float32)
    moved = noise * rng.standard_normal((len(value), 3), dtype=np.float32)
    out[:, :3] = out[:, :3] * factor + radius * moved.clip(-NOISE_LIMIT, NOISE_LIMIT)
    return out


def view_of(
    value: np.ndarray,
    view: str,
    most: int,
    up: str,
    attributes: Sequence[str],
    rng: np.random.Generator,
) -> np.ndarray:
    """One view, see `Points.augment`.

    Args:
        value: (n, 3 + C).
        view: of `SHARES`.
        most: points of a cloud.
        up: the axis that is vertical, "" where none is, so that nothing is turned.
        attributes: names of the C columns.
        rng: the only source of randomness.
    """
    out = drawn(crop(value, rng.uniform(*SHARES[view]), rng), most, rng)
    if view == "strong":
        out = drawn(out, max(1, round(len(out) * (1 - rng.uniform(0, DROPPED)))), rng)
    out = turned(out, up, attributes, rng) if up else out
    return resized(out, SIZES[view], NOISE[view], rng)
