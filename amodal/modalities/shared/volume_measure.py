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
        some = values.sampled(scan.voxels)
        if not len(some):
            raise BadValue("every voxel is missing")
        unit = scan.unit or (HOUNSFIELD if values.is_hounsfield(scan.voxels) else "")
        limits = values.robust_range(scan.voxels)
        return Found(scan.voxels.shape, scan.spacing, unit, limits, some)

    return read_each(list(samples)[::step] if len(samples) > MAX_MEASURED else samples, one)


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
    all_units = all(one.unit for one in scans)
    unit = str(overrides.get("unit", HOUNSFIELD if all_units else ""))
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
    parts.append("Hounsfield units" if volume.unit else "")
    parts.append("perhaps a map of labels" if _first_is_labels(volume, raws) else "")
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


def comment(volume: Volume, raws: Sequence[Raw]) -> str:
    """What to know about the parameters of a field."""
    side = " x ".join(f"{p * s:.3g}" for p, s in zip(volume.patch, volume.spacing))
    lines = [f"patch: {side} mm; a window of size has {_tokens(volume)} tokens"]
    if volume.unit:
        lines.append('unit: Hounsfield, as they are; unit = "" if these are other numbers')
    elif volume.by_scan:
        lines.append(
            "by_scan: ranges of the scans differ, so each is brought to its own percentiles; "
            "false if intensities have one unit, or values are blocks of one scan"
        )
    if _first_is_labels(volume, raws):
        lines.append(
            "perhaps a map of labels: train on the other fields (--fields), and probe it by "
            "--protocols dense --protocol.truth"
        )
    lines.append("flip = true where left and right mean the same")
    return "\n".join(lines)


def _first_is_labels(volume: Volume, raws: Sequence[Raw]) -> bool:
    try:
        return bool(len(raws)) and is_labels(values.read(raws[0], volume.frame).voxels)
    except BadValue:
        return False


def _tokens(volume: Volume) -> int:
    return int(np.prod(patches.cells_of(volume.size, volume.patch)))
