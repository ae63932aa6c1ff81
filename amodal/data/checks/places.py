"""Records of one part of the split that lie on the ground of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from amodal.core import AmodalError
from amodal.data.checks.report import Finding, part_names
from amodal.data.dataset import Dataset
from amodal.data.infer_schema import place_columns
from amodal.data.remote import Unreachable
from amodal.modalities.shared.geotiff import METRES_PER_DEGREE
from amodal.modalities.shared.protocols import Surveys

PAIRS = (("train", "valid"), ("train", "test"), ("valid", "test"))
ROUND = 1e-6
"""Share of a side by which corners of touching records may differ."""
COLUMNS = "latitude and longitude"
"""The name of the system of places that are columns."""


@dataclass(frozen=True)
class Boxes:
    """Where records lie in one coordinate system.

    Attributes:
        rows: (n,) their numbers.
        corners: (n, 4): left, bottom, right, top.
    """

    rows: np.ndarray
    corners: np.ndarray


def leaks(dataset: Dataset, fields: Sequence[str]) -> list[Finding]:
    """Records of one part that overlap, or touch, records of another part.

    Places are those of files, else of columns such as `lat` and `lon`. Records of two coordinate
    systems, such as neighbouring zones, are not compared.

    Args:
        dataset: to look at.
        fields: of the ground.
    """
    boxes = _of_files(dataset, fields) or _of_columns(dataset, fields)
    parts = np.array(part_names(dataset))
    findings = []
    for first, second in PAIRS:
        overlapping, touching = dict[int, int](), dict[int, int]()
        for place in boxes.values():
            one, two = (_of_part(place, parts, name) for name in (first, second))
            over, beside = neighbours(one, two)
            overlapping |= over
            touching |= {i: j for i, j in beside.items() if i not in overlapping}
        for found, what in ((overlapping, "overlap"), (touching, "touch")):
            if found:
                findings.append(_finding(dataset, found, what, (first, second)))
    if len(boxes) > 1 and COLUMNS not in boxes and (parts != parts[:1]).any():
        names = sorted(boxes)
        findings.append(
            Finding(
                "coordinate systems",
                f"records lie in {len(boxes)} coordinate systems, {names[0]} and {names[1]} among "
                "them; overlaps are looked for within each",
                fault=False,
            )
        )
    return findings


def _finding(
    dataset: Dataset, records: dict[int, int], what: str, parts: tuple[str, str]
) -> Finding:
    i, j = next(iter(records.items()))
    fault = what == "overlap"
    end = (
        "a score on them says too much; split by place (split or split_by in dataset.toml)"
        if fault
        else "neighbours are alike, so a score on them may say too much"
    )
    return Finding(
        what,
        f"{len(records):,} records of {parts[1]} {what} records of {parts[0]} on the ground, "
        f"{dataset.keys[i]!r} and {dataset.keys[j]!r} for one: {end}",
        tuple(dataset.keys[i] for i in records),
        fault,
    )


def _of_files(dataset: Dataset, fields: Sequence[str]) -> dict[str, Boxes]:
    """Coordinate system -> the places in it, by the first field of a record that has one."""
    found: dict[str, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for i in range(len(dataset)):
        for name in fields:
            if place := _place(dataset, i, name):
                system, (a, b, left, d, e, top), height, width = place
                xs = [left + a * x + b * y for x in (0, width) for y in (0, height)]
                ys = [top + d * x + e * y for x in (0, width) for y in (0, height)]
                found[system].append((i, (min(xs), min(ys), max(xs), max(ys))))
                break
    return {
        system: Boxes(np.array([i for i, _ in rows]), np.array([box for _, box in rows]))
        for system, rows in found.items()
    }


def _place(dataset: Dataset, i: int, name: str) -> tuple[str, tuple[float, ...], int, int] | None:
    modality = dataset.fields[name]
    assert isinstance(modality, Surveys)
    try:
        raw = dataset.raw(i, name)
        return None if raw is None else modality.footprint(raw)
    except Unreachable:
        raise
    except (AmodalError, OSError):
        return None


def _of_columns(dataset: Dataset, fields: Sequence[str]) -> dict[str, Boxes]:
    """Places by two columns of numbers, in degrees; a record is as wide as its largest raster."""
    numbers = [name for name, label in dataset.labels.items() if label.kind == "number"]
    names = place_columns(numbers)
    if names is None:
        return {}
    latitude, longitude = (dataset.label(name) for name in names)
    rows = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
    if not len(rows) or np.abs(latitude[rows]).max() > 90:
        return {}
    grids = [dataset.fields[name] for name in fields]
    sides = [
        getattr(grid, "size", 0) * getattr(grid, "resolution", 0.0) / METRES_PER_DEGREE
        for grid in grids
    ]
    down = np.full(len(rows), max(sides, default=0.0) / 2)
    across = down / np.cos(np.radians(latitude[rows])).clip(1e-3)
    x, y = longitude[rows], latitude[rows]
    return {COLUMNS: Boxes(rows, np.stack([x - across, y - down, x + across, y + down], 1))}


def _of_part(boxes: Boxes, parts: np.ndarray, name: str) -> Boxes:
    mask = parts[boxes.rows] == name
    return Boxes(boxes.rows[mask], boxes.corners[mask])


def neighbours(first: Boxes, second: Boxes) -> tuple[dict[int, int], dict[int, int]]:
    """Records of the second that overlap one of the first, and that only touch one.

    Returns:
        Two of: record of the second -> a record of the first. Points without a side overlap where
        they are equal.
    """
    overlapping, touching = dict[int, int](), dict[int, int]()
    if not len(first.rows) or not len(second.rows):
        return overlapping, touching
    middles = [(b.corners[:, :2] + b.corners[:, 2:]) / 2 for b in (first, second)]
    sides = [b.corners[:, 2:] - b.corners[:, :2] for b in (first, second)]
    reach = (sides[0].max() + sides[1].max()) / 2 * (1 + ROUND)
    near = cKDTree(middles[0]).query_ball_point(middles[1], reach, p=np.inf)
    for j, candidates in enumerate(near):
        if not candidates:
            continue
        chosen = np.array(candidates)
        half = (sides[0][chosen] + sides[1][j]) / 2
        apart = np.abs(middles[0][chosen] - middles[1][j])
        slack = ROUND * np.maximum(half, 1e-9)
        inside = (apart < half - slack).all(1) | (apart + half <= slack).all(1)
        beside = (apart <= half + slack).all(1)
        row = int(second.rows[j])
        if inside.any():
            overlapping[row] = int(first.rows[chosen[inside.argmax()]])
        elif beside.any():
            touching[row] = int(first.rows[chosen[beside.argmax()]])
    return overlapping, touching
