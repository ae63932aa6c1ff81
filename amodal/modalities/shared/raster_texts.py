"""What is said of rasters in words, and the numbers that describe one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from amodal.modalities.shared import geotiff, raster_values
from amodal.modalities.shared.base import Attribute, listed

if TYPE_CHECKING:
    from amodal.modalities.raster import Raster


def describe(value: np.ndarray) -> str:
    """See `Modality.describe`."""
    dates, planes, height, width = value.shape
    missing = float(np.isnan(value[:, 1:]).mean())
    ends = [geotiff.date_of(float(month)) for month in value[[0, -1], 0, 0, 0]]
    when = " … ".join(dict.fromkeys(e for e in ends if e))
    parts = [f"{planes - 1} band{'s' * (planes > 2)}", f"{height} x {width} pixels"]
    parts += [f"{dates} dates"] * (dates > 1) + [when] * bool(when)
    return ", ".join(parts + [f"{missing:.0%} missing"] * bool(missing))


def summary(raster: Raster, values: Sequence[np.ndarray]) -> str:
    """See `Modality.summarize`."""
    ground = f" of {raster.resolution:g} m" if raster.resolution else ""
    sides = sorted({max(v.shape[2:]) for v in values}) or [raster.size]
    across = f"{sides[0]} … {sides[-1]}" if len(sides) > 1 else f"{sides[0]}"
    parts = [f"{raster.channels} bands ({listed(raster.bands)})", f"{across} pixels{ground} a side"]
    months = [m for v in values for m in v[:, 0, 0, 0].tolist() if math.isfinite(m)]
    if months:
        ends = dict.fromkeys(geotiff.date_of(m) for m in (min(months), max(months)))
        parts.append(f"{' … '.join(ends)}")
    if missing := float(np.mean([np.isnan(v[:, 1:]).mean() for v in values] or [0])):
        parts.append(f"{missing:.1%} of the pixels missing")
    groups = len(raster.token_groups)
    return ", ".join(parts + ([f"tokens of {groups} groups of bands"] if groups else []))


def comment(raster: Raster) -> str:
    """See `Modality.comment`."""
    each = raster.channels if raster.by_wavelength else max(len(raster.token_groups), 1)
    tokens = (-(-raster.size // raster.tile)) ** 2 * each
    return f"patch: {raster.tile} pixels a side, {tokens} tokens a date of the largest value"


def attributes(raster: Raster) -> dict[str, Attribute]:
    """See `Modality.attributes`."""

    def mean(value: np.ndarray) -> float:
        return float(np.nanmean(value[:, 1:]))

    def missing(value: np.ndarray) -> float:
        return float(np.isnan(value[:, 1:]).mean())

    def vegetation(value: np.ndarray) -> float | None:
        return raster_values.vegetation(value[:, 1:], raster.bands)

    measured = {"mean": mean, "missing": missing}
    green = {"vegetation": vegetation} if raster_values.has_vegetation(raster.bands) else {}
    return {name: Attribute("number", of) for name, of in (measured | green).items()}
