"""What `infer` measures of scans, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.modalities.shared import volume_frame as frame
from amodal.modalities.shared import volume_patches as patches
from amodal.modalities.shared import volume_values as values
from amodal.modalities.shared.base import BadValue, Raw, read_each
from amodal.modalities.shared.volume_axes import Scan
from amodal.modalities.shared.volume_dicom import HOUNSFIELD

if TYPE_CHECKING:
    from amodal.modalities.volume import Volume

ALONG = 16
"""Patches along the longest side of a scan."""
FINEST = 4
"""Voxels of a patch along its longest axis, at least."""
WINDOW = 8
"""Patches of a window along each axis, at most."""
ALIKE = 1.5
"""How far the ranges of scans may be apart to be of one unit."""
HOUNSFIELD_RANGE = (-1024.0, 3071.0)
"""Of 12 bits, as most CT scanners have: what is beyond is metal."""
LABELS = 0.6
"""Share of neighbours that are of one class in a map of labels; of a scan few are the same."""
BELOW = -200.0
"""Numbers of a CT reach below it: air and fat."""
MAX_MEASURED = 32
"""Scans of which voxels are looked at."""


@dataclass(frozen=True)
class Found:
    """One scan.

    Attributes:
        shape: voxels along each axis.
        spacing: millimetres along each axis.
        unit: "HU" or "".
        range: its robust percentiles.
        some: voxels of it.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    range: tuple[float, float]
    some: np.ndarray


def measured(samples: Sequence[Raw], number: int) -> list[Found]:
    """Measures of the samples that can be read, at most `MAX_MEASURED`, one at a time in memory.

    Args:
        samples: raw values.
        number: of the scan in a file of more.

    Raises:
        BadValue: none can be read.
    """
    step = max(1, len(samples) // MAX_MEASURED)

    def one(raw: Raw) -> Found:
        scan = values.read(raw, number)
        unit, voxels = _unit_of(scan), scan.voxels
        voxels = values.without_padding(voxels) if unit else voxels
        some = values.sampled(voxels)
        if not len(some):
            raise BadValue("every voxel is missing")
        return Found(voxels.shape, scan.spacing, unit, values.robust_range(voxels), some)

    return read_each(list(samples)[::step] if len(samples) > MAX_MEASURED else samples, one)


def _unit_of(scan: Scan) -> str:
    return scan.unit or (HOUNSFIELD if values.is_hounsfield(scan.voxels) else "")


def chosen(scans: Sequence[Found], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a field.

    Args:
        scans: of its scans.
        overrides: parameters that are chosen already.
    """
    spacing = np.median([one.spacing for one in scans], axis=0)
    spacing = np.array(overrides.get("spacing", [float(f"{s:.4g}") for s in spacing]))
    largest = np.array([one.shape for one in scans]).max(0)
    patch = tuple(overrides.get("patch", patch_of(largest, spacing)))
    cells = [min(WINDOW, n) for n in patches.cells_of(largest.tolist(), patch)]
    most = sum(bool(one.unit) for one in scans) * 2 > len(scans)
    unit = str(overrides.get("unit", HOUNSFIELD if most else ""))
    by_scan = bool(overrides.get("by_scan", not unit and not _alike(scans)))
    if unit:
        low, high = HOUNSFIELD_RANGE
    elif by_scan:
        low, high = 0.0, 1.0
    else:
        low, high = (float(np.median([one.range[i] for one in scans])) for i in (0, 1))
    low, high = float(overrides.get("low", low)), float(overrides.get("high", high))
    some = np.concatenate([_scaled(one, by_scan) for one in scans])
    within = some.clip(low, high) if high > low else some
    return {
        "spacing": spacing.tolist(),
        "patch": list(patch),
        "size": [n * p for n, p in zip(cells, patch)],
        "unit": unit,
        "by_scan": by_scan,
        "low": float(f"{low:.6g}"),
        "high": float(f"{high:.6g}"),
        "mean": float(f"{within.mean(dtype=np.float64):.6g}"),
        "std": float(f"{max(float(within.std(dtype=np.float64)), 1e-6):.6g}"),
    }


def patch_of(shape: np.ndarray, spacing: np.ndarray) -> tuple[int, ...]:
    """Voxels of a patch along each axis, so that patches are about as long along each.

    Args:
        shape: voxels of a scan along each axis.
        spacing: millimetres along each axis.
    """
    side = max(float((shape * spacing).max()) / ALONG, FINEST * float(spacing.min()))
    return tuple(
        int(max(1, min(round(side / step), n))) for n, step in zip(shape.tolist(), spacing.tolist())
    )


def _alike(scans: Sequence[Found]) -> bool:
    """Whether the ranges of scans are about the same."""
    widths = [high - low for one in scans for low, high in (one.range,)]
    return max(widths) <= ALIKE * min(widths)


def _scaled(one: Found, by_scan: bool) -> np.ndarray:
    if not by_scan:
        return one.some
    low, high = one.range
    return (one.some - low) / (high - low)


def summary(volume: Volume, raws: Sequence[Raw], decoded: Sequence[np.ndarray]) -> str:
    """Shape, spacing, orientation and share of missing voxels of a field."""
    shapes = sorted({frame.voxels_of(value).shape for value in decoded})
    sides = [" x ".join(map(str, shape)) for shape in shapes]
    parts = [f"{' … '.join(dict.fromkeys([*sides[:1], *sides[-1:]]))} voxels"] if sides else []
    spacings = sorted({frame.spacing_of(value) for value in decoded})
    steps = [" x ".join(f"{s:.3g}" for s in spacing) for spacing in spacings]
    if steps:
        parts.append(f"{' … '.join(dict.fromkeys([*steps[:1], *steps[-1:]]))} mm")
    axes = Counter(_axes_of(raw, volume.frame) for raw in raws)
    if axes:
        parts.append("axes " + ", ".join(name or "not known" for name, _ in axes.most_common(3)))
    seen = _seen(volume, raws)
    parts += [_units_said(volume, seen), _labels_said(seen)]
    missing = float(np.mean([np.isnan(frame.voxels_of(v)).mean() for v in decoded] or [0]))
    parts.append(f"{missing:.1%} of the voxels missing" if missing else "")
    return ", ".join(part for part in parts if part)


def _axes_of(raw: Raw, number: int) -> str:
    try:
        return values.axes_in(raw, number)
    except BadValue:
        return ""


def is_labels(voxels: np.ndarray) -> bool:
    """Whether voxels are class numbers: whole, and mostly that of their neighbour."""
    first, second = voxels[:-1], voxels[1:]
    known = (first > 0) & (second > 0)
    inside, beside = first[known], second[known]
    if not len(inside) or np.nanmin(voxels) < 0 or (inside != np.rint(inside)).any():
        return False
    return bool((inside == beside).mean() > LABELS)


@dataclass(frozen=True)
class Seen:
    """How many scans there are, and how many of them are what.

    Attributes:
        scans: that can be read.
        units: in Hounsfield units, by their file or by the darkest and brightest voxels.
        below: with whole numbers well below 0, as CT has and MR has not.
        labels: maps of labels.
    """

    scans: int
    units: int
    below: int
    labels: int


def _seen(volume: Volume, raws: Sequence[Raw]) -> Seen:
    found = []
    for raw in raws:
        try:
            scan = values.read(raw, volume.frame)
        except BadValue:
            continue
        some = values.sampled(scan.voxels)
        whole = bool(len(some)) and some.min() < BELOW and bool((some == np.rint(some)).all())
        found.append((bool(_unit_of(scan)) if len(some) else False, whole, is_labels(scan.voxels)))
    units, below, labels = (sum(column) for column in zip(*found)) if found else (0, 0, 0)
    return Seen(len(found), units, below, labels)


def _units_said(volume: Volume, seen: Seen) -> str:
    share = f"{seen.units} of {seen.scans}"
    if volume.unit:
        differ = f" ({share} scans have them by their numbers)" if seen.units < seen.scans else ""
        return f"Hounsfield units{differ if seen.scans else ''}"
    return f"perhaps Hounsfield units in {share} scans" if seen.units else ""


def _labels_said(seen: Seen) -> str:
    if not seen.labels:
        return ""
    if seen.labels == seen.scans:
        return "perhaps a map of labels"
    return f"{seen.labels} of {seen.scans} scans are perhaps maps of labels, and others not"


def comment(volume: Volume, raws: Sequence[Raw]) -> str:
    """What to know about the parameters of a field."""
    side = " x ".join(f"{p * s:.3g}" for p, s in zip(volume.patch, volume.spacing))
    lines = [f"patch: {side} mm; a window of size has {_tokens(volume)} tokens"]
    seen = _seen(volume, raws)
    if volume.unit:
        lines.append('unit: Hounsfield, as they are; unit = "" if these are other numbers')
        if seen.units < seen.scans:
            lines.append(
                f"unit: {seen.scans - seen.units} of {seen.scans} scans have not the darkest and "
                "brightest voxels of a CT, such as one that was cut; look whether they are CTs"
            )
    elif volume.by_scan:
        lines.append(
            "by_scan: ranges of the scans differ, so each is brought to its own percentiles; "
            "false if intensities have one unit, or values are blocks of one scan"
        )
    if not volume.unit and (seen.units or seen.below):
        lines.append(
            f"unit: {max(seen.units, seen.below)} of {seen.scans} scans have numbers below 0, as "
            'CTs have: if they are, unit = "HU" and by_scan = false, without low, high, mean and '
            "std"
        )
    if seen.labels == seen.scans and seen.labels:
        lines.append(
            "perhaps a map of labels: train on the other fields (--fields), and probe it by "
            "--protocols dense --protocol.truth"
        )
    elif seen.labels:
        lines.append(
            f"{_labels_said(seen)}: give maps an ending of their own, such as a.seg.nii.gz beside "
            "a.nii.gz, and make dataset.toml anew (amodal init --force), for a field of their own"
        )
    lines.append("flip = true where left and right mean the same")
    return "\n".join(lines)


def _tokens(volume: Volume) -> int:
    return int(np.prod(patches.cells_of(volume.size, volume.patch)))
