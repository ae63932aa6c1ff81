"""Rasters from files and arrays, and what is made of their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.modalities.shared import geotiff
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.raster_dates import (
    BANDS,
    CRS,
    DATES,
    TRANSFORM,
    VALUES,
    WAVELENGTHS,
    some_dates,
)
from amodal.modalities.shared.requests import Limits, TooLarge, array_of, file_of

COLOURS = (("red", "b04", "b4"), ("green", "b03", "b3"), ("blue", "b02", "b2"))
"""Names of bands in true colour, lower case; the numbers are Sentinel-2's."""
NEAR_INFRARED = ("nir", "b08", "b8", "near infrared", "nir08")
SHOWN = (2, 98)
"""Percentiles that become black and white."""
MIN_SIDE = 32
"""Smaller pictures are enlarged."""
QUANTILES = (0.1, 0.5, 0.9)
MAX_RATIOS = 16
"""Bands of which all normalised differences are features."""
BLOCKS, MAX_BLOCK_BANDS = 4, 16
"""Blocks of a side whose means are features, and bands that have such."""
GREY = 128
NOWHERE = "", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Stack:
    """The pixels of a raw value.

    Attributes:
        pixels: (T, C, H, W) float32, NaN where missing.
        bands: their names; "" for a band without.
        months: (T,) of the dates, since January 2000; NaN if unknown.
        resolution: metres of a pixel's side; 0 if unknown.
        place: coordinate reference system and transform, see `geotiff.Scene`.
        wavelengths: (C,) nanometres of the bands, NaN where it does not say; () for none.
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    months: np.ndarray
    resolution: float = 0.0
    place: tuple[str, tuple[float, ...]] = NOWHERE
    wavelengths: tuple[float, ...] = ()

    @property
    def named(self) -> bool:
        """Whether every band has a name of its own."""
        return all(self.bands) and len(set(self.bands)) == len(self.bands)


def read(raw: Raw, longest: int = 0, most: int = 0) -> Stack:
    """A raster of any kind.

    Args:
        raw: a file or its bytes, an array (H, W), (C, H, W) or (T, C, H, W), a dict with "values"
            and, if known, "dates" and "bands", or a list of rasters, one for each date.
        longest: pixels of a side at most, 0 for any number.
        most: dates to read of pixels that are read date by date, evenly spaced; 0 for all.

    Raises:
        BadValue: it is none, or damaged.
    """
    raw = unwrap(raw)
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if not is_numpy(data):
            name = "" if isinstance(raw, bytes) else str(raw)
            return _of_scene(geotiff.read(data, name, longest=longest))
        raw = load_numpy(data)
    if isinstance(raw, dict):
        return _of_dict(raw if not most else some_dates(raw, most))
    if isinstance(raw, (list, tuple)) and raw and all(_is_file(part) for part in raw):
        return _joined([read(part, longest) for part in raw])
    return _of_array(raw)


def _is_file(part: object) -> bool:
    return isinstance(part, (Path, str, bytes, dict)) or (
        isinstance(part, np.ndarray) and part.ndim == 3
    )


def _of_scene(scene: geotiff.Scene) -> Stack:
    place = scene.crs, scene.transform
    month = np.array([scene.month])
    return Stack(scene.pixels[None], scene.bands, month, scene.resolution, place, scene.wavelengths)


def _of_dict(raw: dict[str, Any]) -> Stack:
    if VALUES not in raw:
        raise BadValue(
            f'a raster as a dict has "{VALUES}" and, if known, "{DATES}" and "{BANDS}"; it has '
            f"{', '.join(map(str, raw)) or 'nothing'}"
        )
    stack = _of_array(raw[VALUES])
    dates, bands, waves = (
        np.ravel(raw[n]).tolist() if n in raw else [] for n in (DATES, BANDS, WAVELENGTHS)
    )
    for name, entries, axis in ((DATES, dates, 0), (BANDS, bands, 1), (WAVELENGTHS, waves, 1)):
        if entries and len(entries) != stack.pixels.shape[axis]:
            raise BadValue(
                f"{len(entries)} {name} for values of shape {stack.pixels.shape}, expected "
                f"{stack.pixels.shape[axis]}"
            )
    months = np.array([geotiff.month_of(str(date)) for date in dates]) if dates else stack.months
    place, metres = _written_place(raw)
    names = tuple(map(str, bands)) or stack.bands
    try:
        nanometres = tuple(map(float, waves))
    except ValueError:
        raise BadValue(f'"{WAVELENGTHS}" are nanometres of the bands, not {waves}') from None
    return Stack(stack.pixels, names, months, metres, place, nanometres)


def _written_place(raw: dict[str, Any]) -> tuple[tuple[str, tuple[float, ...]], float]:
    """Place and metres of a pixel of a dict; nowhere and 0 without them, or in degrees."""
    entries = np.ravel(raw[TRANSFORM]) if CRS in raw and TRANSFORM in raw else np.zeros(0)
    if not len(entries):
        return NOWHERE, 0.0
    if len(entries) != 6 or entries.dtype.kind not in "buif" or not np.isfinite(entries).all():
        raise BadValue(f'"{TRANSFORM}" is six numbers a … f, not {entries.tolist()}')
    a, b, _, d, e, _ = numbers = entries.tolist()
    if not a * e - b * d:
        raise BadValue(f'"{TRANSFORM}" gives pixels no area: {numbers}')
    crs = str(raw[CRS])
    return (crs, tuple(map(float, numbers))), geotiff.metres_of(crs, abs(a * e - b * d) ** 0.5)


def _of_array(raw: object) -> Stack:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"not an array of pixels: {error}") from None
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is no raster: expected "
            "(height, width), (bands, height, width) or (dates, bands, height, width) numbers"
        )
    pixels = array.astype(np.float32).reshape((1,) * (4 - array.ndim) + array.shape)
    pixels[~np.isfinite(pixels)] = np.nan
    return Stack(pixels, ("",) * pixels.shape[1], np.full(len(pixels), np.nan))


def _joined(stacks: Sequence[Stack]) -> Stack:
    """Rasters of one place at different dates."""
    shapes = list(dict.fromkeys(s.pixels.shape[1:] for s in stacks))
    if len(shapes) > 1 or len({s.bands for s in stacks}) > 1:
        raise BadValue(
            "the dates of one value have the same bands and sides, and these have "
            f"{' and '.join(map(str, shapes[:2]))}: bring them to one grid first"
        )
    if len({s.place for s in stacks}) > 1:
        raise BadValue(
            "the dates of one value lie on one grid, and these have different coordinate systems "
            "or corners: bring them to one grid first"
        )
    return Stack(
        np.concatenate([s.pixels for s in stacks]),
        stacks[0].bands,
        np.concatenate([s.months for s in stacks]),
        stacks[0].resolution,
        stacks[0].place,
        stacks[0].wavelengths,
    )


def footprint(raw: Raw) -> tuple[str, tuple[float, ...], int, int] | None:
    """Where a raster lies, without its pixels where it is a file.

    Args:
        raw: as `read` takes it.

    Returns:
        Coordinate reference system, transform, height and width; None where it does not say.

    Raises:
        BadValue: it is no raster, or damaged.
    """
    raw = unwrap(raw)
    if isinstance(raw, (list, tuple)) and raw and all(_is_file(part) for part in raw):
        return footprint(raw[0])
    if isinstance(raw, (Path, str, bytes)):
        data = read_bytes(raw)
        if not is_numpy(data):
            found = geotiff.footprint(data)
            return found if found[0] else None
        raw = load_numpy(data)
    if not isinstance(raw, dict) or VALUES not in raw:
        return None
    (crs, transform), _ = _written_place(raw)
    sides = np.shape(raw[VALUES])[-2:]
    if len(sides) < 2:
        raise BadValue(
            f'"{VALUES}" of {len(sides)} dimensions are no raster: expected rows and columns'
        )
    return (crs, transform, *sides) if crs else None


def band_names(stacks: Sequence[Stack]) -> tuple[str, ...]:
    """Names of the bands of a field: those of the files in the order of the first, or numbers.

    Raises:
        BadValue: some files have names and others none, or another number of bands.
    """
    if all(s.named for s in stacks):
        return tuple(dict.fromkeys(b for s in stacks for b in s.bands))
    counts = [s.pixels.shape[1] for s in stacks]
    return numbers(max(set(counts), key=counts.count))


def numbers(count: int) -> tuple[str, ...]:
    """The names of bands without a name."""
    return tuple(f"band {i + 1}" for i in range(count))


def wavelengths(stacks: Sequence[Stack]) -> dict[str, tuple[float, ...]]:
    """wavelengths -> nanometres of the bands of a field, as `band_names` orders them; {} where
    files do not say it of all of them."""
    names, found = band_names(stacks), dict[str, float]()
    for stack in stacks:
        bands = stack.bands if all(s.named for s in stacks) else names
        found = {b: w for b, w in zip(bands, stack.wavelengths) if math.isfinite(w)} | found
    return {"wavelengths": tuple(found[b] for b in names)} if found.keys() >= {*names} else {}


def _index(bands: Sequence[str], names: Sequence[str]) -> int | None:
    lower = [band.lower() for band in bands]
    return next((lower.index(name) for name in names if name in lower), None)


def has_vegetation(bands: Sequence[str]) -> bool:
    """Whether red and near infrared are among the bands."""
    return None not in (_index(bands, COLOURS[0]), _index(bands, NEAR_INFRARED))


def vegetation(pixels: np.ndarray, bands: Sequence[str]) -> float | None:
    """The normalised difference of near infrared and red (NDVI, Rouse et al. 1974), the mean over
    pixels; None where there is none.

    Args:
        pixels: (T, C, H, W).
        bands: their names, see `has_vegetation`.
    """
    red, near = _index(bands, COLOURS[0]), _index(bands, NEAR_INFRARED)
    if red is None or near is None:
        return None
    index = _difference(pixels[:, near], pixels[:, red])
    return float(np.nanmean(index)) if np.isfinite(index).any() else None


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a + b
    return np.where(np.abs(total) > 1e-12, (a - b) / np.where(total == 0, 1, total), np.nan)


def picture(pixels: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """(h, w, 3) uint8 of dates beside each other; what is missing is grey.

    Args:
        pixels: (T, C, H, W).
        bands: their names.
    """
    colours = [_index(bands, names) for names in COLOURS]
    count = pixels.shape[1]
    chosen = [c for c in colours if c is not None]
    if len(chosen) < 3:
        chosen = [0, 1, 2] if count >= 3 else [0, 0, 0]
    shown = pixels[:, chosen]
    out = np.full(shown.shape, GREY, dtype=np.float32)
    for i in range(3):
        band = shown[:, i]
        if np.isfinite(band).any():
            low, high = np.nanpercentile(band, SHOWN)
            out[:, i] = np.nan_to_num(
                (band - low) / max(float(high - low), 1e-12) * 255, nan=float(GREY)
            )
    whole = np.concatenate(list(out.clip(0, 255).astype(np.uint8)), 2).transpose(1, 2, 0)
    times = max(1, math.ceil(MIN_SIDE / min(whole.shape[:2])))
    return np.ascontiguousarray(whole.repeat(times, 0).repeat(times, 1))


def statistics(values: Sequence[np.ndarray]) -> list[npt.NDArray[np.float64]]:
    """Groups of columns of n >= 1 values (T, C, H, W), NaN where nothing is known."""
    rows: list[list[np.ndarray]] = []
    for value in values:
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(_statistics(value.astype(np.float64)))
    return [np.stack(group) for group in zip(*rows)]


def _statistics(value: np.ndarray) -> list[np.ndarray]:
    count = value.shape[1]
    flat = value.transpose(1, 0, 2, 3).reshape(count, -1)
    present = np.isfinite(flat)
    # a band without a pixel has NaN in all of its columns, and no warning
    safe = np.where(present.any(1, keepdims=True), flat, 0.0)
    mean, deviation = np.nanmean(safe, 1), np.nanstd(safe, 1)
    quantiles = np.nanquantile(safe, QUANTILES, axis=1)
    across = [_mean_of(np.abs(np.diff(value, axis=axis)), (0, 2, 3)) for axis in (2, 3)]
    by_date = _mean_of(value, (2, 3))
    change = np.where(np.isfinite(by_date).any(0), np.nanmax(_filled(by_date), 0), 0)
    change = change - np.where(np.isfinite(by_date).any(0), np.nanmin(_filled(by_date), 0), 0)
    used = mean[:MAX_RATIOS]
    upper = np.triu_indices(len(used), 1)
    ratios = np.nan_to_num(_difference(used[:, None], used[None]))[upper]
    groups = [mean, deviation, quantiles.ravel(), np.concatenate(across), change, ratios]
    groups.append(_blocks(value, mean))
    unknown = ~present.any(1)
    for group in groups[:2]:
        group[unknown] = np.nan
    return [group for group in groups if group.size]


def _blocks(value: np.ndarray, mean_C: np.ndarray) -> np.ndarray:
    """Means of a coarse grid of blocks less the band's own, of some bands; 0 where nothing is."""
    chosen = np.unique(np.linspace(0, len(mean_C) - 1, MAX_BLOCK_BANDS).round().astype(int))
    over_dates = _mean_of(value[:, chosen], (0,))
    means = [
        _mean_of(block, (1, 2))
        for row in np.array_split(over_dates, BLOCKS, axis=1)
        for block in np.array_split(row, BLOCKS, axis=2)
    ]
    out: np.ndarray = np.nan_to_num(np.stack(means) - mean_C[chosen]).ravel()
    return out


def _filled(values: np.ndarray) -> np.ndarray:
    """Columns without any number are 0, so that numpy does not warn."""
    return np.where(np.isfinite(values).any(0), values, 0.0)


def _mean_of(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The mean over axes of what exists, NaN where nothing does."""
    present = np.isfinite(values)
    count = present.sum(axes)
    total = np.where(present, values, 0).sum(axes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def checked(raw: Any, limits: Limits) -> Raw:
    """An untrusted raster, after a look at its header.

    Args:
        raw: bytes of a file, or parsed JSON: {"values": lists, "dates": texts, "bands": texts,
            "wavelengths": numbers}.
        limits: of the cost.

    Raises:
        TooLarge: it would cost more than `limits` allow.
        BadValue: it is of another kind, or damaged.
    """
    if (
        isinstance(raw, dict)
        and VALUES in raw
        and raw.keys() <= {VALUES, DATES, BANDS, WAVELENGTHS}
    ):
        stack = _of_dict(raw)  # which opens no file
        _check_size(stack.pixels.size, limits)
        return raw
    data = file_of(raw)
    if is_numpy(data):
        array = array_of(data)
        _check_size(array.size, limits)
        return array
    _check_size(math.prod(geotiff.sides(data)), limits)
    return data


def _check_size(numbers: int, limits: Limits) -> None:
    if numbers > limits.pixels:
        raise TooLarge(f"{numbers:,} pixels of all bands; at most {limits.pixels:,} are read")
