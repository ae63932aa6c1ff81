"""How large the objects in pictures are, by labels, for the protocol `small_objects`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.labels import NotApplicable
from amodal.inference.embed import Embedded


def areas(test: Embedded) -> np.ndarray:
    """The size of each record's object.

    Returns:
        (N,) share of its picture, NaN where that is unknown.

    Raises:
        NotApplicable: Without a label `area` or `box`.
        AmodalError: For a share outside (0, 1].
    """
    if "area" in test.labels:
        share = np.array([number_of(v) for v in test.labels["area"]])
    elif "box" in test.labels:
        share = np.array([np.nan if v is None else area_of(v) for v in test.labels["box"]])
    else:
        raise NotApplicable(
            "it needs a label `area`, a share of the picture, or `box`; declare one in dataset.toml"
        )
    wrong = share[np.isfinite(share) & ((share <= 0) | (share > 1))]
    if len(wrong):
        raise AmodalError(
            f"a thing covers more than 0 and at most 1 of its picture, not {wrong[0]:g}; "
            "see `small_objects`"
        )
    return share


def area_of(box: str) -> float:
    """The share of a picture that a box covers.

    Raises:
        AmodalError: For what is no box.
    """
    try:
        left, top, right, bottom, *picture = map(float, json.loads(box))
        width, height = picture or (1.0, 1.0)
        share = (right - left) * (bottom - top) / (width * height)
        if right > left and bottom > top and (picture or max(right, bottom) <= 1):
            return share
    except (ValueError, TypeError, ZeroDivisionError):
        pass
    raise AmodalError(
        f"{str(box)[:60]!r} is no box: [left, top, right, bottom] as shares of the sides, or in "
        "pixels with the picture's width and height"
    )


def number_of(value: str | float | None) -> float:
    """A label as a number, NaN where it is missing.

    Raises:
        AmodalError: If it is no number.
    """
    try:
        return np.nan if value is None else float(value)
    except ValueError:
        raise AmodalError(f"{value!r} is no number; `area` and `count` are numbers") from None


def bins_of(
    values: np.ndarray, edges: Sequence[float], name: str, shown: Callable[[float], str]
) -> dict[str, np.ndarray]:
    """Divide values into bins: below the first edge, between each two, and from the last on.

    Args:
        values: N values.
        edges: Of the bins.
        name: Of a bin, with {} for its bounds.
        shown: An edge as text.

    Returns:
        Name of a bin -> (N,) bool.

    Raises:
        AmodalError: For edges that do not rise.
    """
    edges = list(edges)
    if not edges or any(b <= a for a, b in zip(edges, edges[1:])):
        raise AmodalError(f"edges of bins rise, and there is at least one; got {edges}")
    bounds = [-np.inf, *edges, np.inf]
    named = [
        f"below {shown(edges[0])}",
        *(f"{shown(a)} to {shown(b)}" for a, b in zip(edges, edges[1:])),
        f"from {shown(edges[-1])}",
    ]
    return {
        name.format(n): (values >= a) & (values < b) for n, a, b in zip(named, bounds, bounds[1:])
    }
