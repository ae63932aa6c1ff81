"""Scans from files and arrays, and what is made of their voxels."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from amodal.core.regular_file import regular
from amodal.modalities.shared import volume_dicom as dicom
from amodal.modalities.shared import volume_frame as frame
from amodal.modalities.shared import volume_nifti as nifti
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.files import MAX_UNPACKED, is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.requests import Limits, TooLarge, array_of
from amodal.modalities.shared.volume_axes import Scan, closest, names_of

VALUES, AFFINE, SPACING, UNIT = "values", "affine", "spacing", "unit"
"""Names within a .npz file and a dict."""
SLICES = (".dcm", ".dicom", ".ima")
"""Endings of slices in files of their own; in a folder they are one scan."""
ZIP = b"PK\x03\x04"
SAMPLED = 100_000
"""Voxels of a scan that percentiles are measured on, about."""
ROBUST = (0.5, 99.5)
"""Percentiles of a scan, as nnU-Net clips at (Isensee et al. 2021, Nature Methods 18)."""
BINS, BLOCKS = 16, 4
"""Of the histogram, and blocks of a side whose means are features."""
DARKEST = -1100.0
"""Hounsfield units of air, -1000, with its noise; scanners fill up with -2000 or -3024."""
GREY = 128
MIN_SIDE, MAX_SIDE = 64, 320
"""Of the picture of a slice, in pixels: smaller ones are enlarged, larger ones thinned out."""
GAP = 2


def read(raw: Raw, number: int = -1) -> Scan:
    """A scan of any kind, with axes to the right, front and top.

    Axes are flipped and exchanged to be closest to these, and voxels are never resampled: those of
    an oblique scan stay oblique.

    Args:
        raw: a NIfTI file or its bytes; a folder of DICOM slices, a list of them or of their bytes,
            or a zip of them; a dict with "values" (X, Y, Z) and "affine" or "spacing"; an array.
        number: of the scan in a file of more, from 0; -1 where there must be one.

    Raises:
        BadValue: it is none, or damaged.
    """
    raw = unwrap(raw)
    if hasattr(raw, "dataobj") and hasattr(raw, "affine"):  # an image of nibabel
        raw = {VALUES: raw.dataobj, AFFINE: nifti.affine_of(raw)}
    if isinstance(raw, str):
        raw = Path(raw)
    if isinstance(raw, Path) and raw.is_dir():
        raw = cast(Raw, slices_in(raw))
    if isinstance(raw, (list, tuple)) and raw and all(isinstance(p, (Path, bytes)) for p in raw):
        return _of_slices(raw)
    if isinstance(raw, (Path, bytes)):
        data = read_bytes(raw)
        if dicom.is_dicom(data):
            return _of_slices([raw])
        if data[:4] == ZIP and (members := _zipped_slices(data)):
            return _of_slices(members)
        if not is_numpy(data):
            voxels, header = nifti.read(data, number)
            return closest(voxels, header.affine, "", known=header.oriented)
        raw = load_numpy(data)
    if isinstance(raw, dict):
        return _of_dict(raw, number)
    return _of_dict({VALUES: raw}, number)


def axes_in(raw: Raw, number: int = -1) -> str:
    """Where the axes of a file lead, of NIfTI by its header alone; "" where it does not say.

    Raises:
        BadValue: it is no scan, or damaged.
    """
    raw = unwrap(raw)
    file = isinstance(raw, (Path, bytes)) and not (isinstance(raw, Path) and raw.is_dir())
    if file and nifti.is_nifti(data := read_bytes(cast(Any, raw))):
        header = nifti.header_of(data)
        return names_of(header.affine) if header.oriented else ""
    return read(raw, number).axes


def slices_in(folder: Path) -> list[Path]:
    """The DICOM slices of a folder, those below it not.

    Raises:
        BadValue: there is none.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    found = [file for file in files if file.suffix.lower() in SLICES]
    if not found:
        # IM0001, and numbers with dots
        unnamed = [file for file in files if not file.suffix or file.suffix[1:].isdigit()]
        found = [file for file in unnamed if _begins_as_slice(file)]
    if not found:
        raise BadValue(f"no DICOM slice ({', '.join(SLICES)}) in the folder {folder.name}")
    return found


def _begins_as_slice(file: Path) -> bool:
    with open(regular(file), "rb") as stream:
        return dicom.is_slice(stream.read(dicom.HEAD))


def _of_slices(files: Sequence[Any]) -> Scan:
    if len(files) > dicom.MAX_SLICES:
        raise BadValue(f"{len(files):,} slices, more than {dicom.MAX_SLICES:,}")
    size = sum(len(file) if isinstance(file, bytes) else _bytes_of(file) for file in files)
    if size > MAX_UNPACKED:
        raise BadValue(f"{size:,} bytes of slices, more than {MAX_UNPACKED:,}: cut the scan")
    named = [
        (file.name if isinstance(file, Path) else f"slice {i + 1}", read_bytes(file))
        for i, file in enumerate(files)
    ]
    slices = [(name, content) for name, content in named if not dicom.lists_files(content)]
    voxels, affine, unit = dicom.read(slices or named)
    return closest(voxels, affine, unit)


def _bytes_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):  # which reading it says better
        return 0


def _zipped_slices(data: bytes) -> list[bytes]:
    """The slices of a zip file; [] where it holds something else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if any(m.filename.endswith(".npy") for m in members):
                return []
            if sum(m.file_size for m in members) > MAX_UNPACKED:
                raise BadValue(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
            content = [archive.read(m) for m in members[: dicom.MAX_SLICES + 1]]
    except BadValue:
        raise
    except Exception as error:  # zipfile and zlib raise whatever they stumble over first
        raise BadValue(f"damaged zip file: {error}") from None
    return [one for one in content if dicom.is_slice(one)]


def _of_dict(raw: dict[str, Any], number: int = -1) -> Scan:
    if VALUES not in raw:
        raise BadValue(
            f'a scan as a dict has "{VALUES}" and, if known, "{AFFINE}" or "{SPACING}"; it has '
            f"{', '.join(map(str, raw)) or 'nothing'}"
        )
    try:
        nifti.check_size(tuple(np.shape(raw[VALUES])[:3]))
        array = np.asarray(raw[VALUES])
    except ValueError as error:
        raise BadValue(f"not an array of voxels: {error}") from None
    if array.ndim == 4 and 0 <= number < array.shape[3]:
        array = array[..., number]
    if array.dtype.kind not in "buif" or array.ndim != 3 or 0 in array.shape:
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is no scan: expected (X, Y, "
            "Z) numbers"
        )
    with np.errstate(over="ignore"):
        voxels = array.astype(np.float32)
    voxels[~np.isfinite(voxels)] = np.nan
    affine = np.eye(4)
    if AFFINE in raw:
        affine = _numbers(raw[AFFINE], (4, 4), AFFINE)
        nifti.check_affine(affine)
    elif SPACING in raw:
        steps = _numbers(raw[SPACING], (3,), SPACING)
        if not (steps > 0).all():
            raise BadValue(f'"{SPACING}" is three lengths in mm above 0, not {steps.tolist()}')
        affine[:3, :3] = np.diag(steps)
    unit = str(raw.get(UNIT, ""))
    return closest(voxels, affine, unit if unit == dicom.HOUNSFIELD else "", known=AFFINE in raw)


def _numbers(raw: object, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise BadValue(f'"{name}" is {" x ".join(map(str, shape))} finite numbers')
    numbers: np.ndarray = array
    return numbers


def sampled(voxels: np.ndarray) -> np.ndarray:
    """(n,) finite voxels, evenly spaced, about `SAMPLED` of them."""
    step = max(1, round((voxels.size / SAMPLED) ** (1 / 3)))
    some: np.ndarray = voxels[::step, ::step, ::step].ravel()
    some = some[np.isfinite(some)]
    if not len(some):
        some = voxels[np.isfinite(voxels)]
    return some


def robust_range(voxels: np.ndarray) -> tuple[float, float]:
    """The percentiles `ROBUST` of the voxels that exist; of a constant scan they differ by 1."""
    low, high = (float(x) for x in np.percentile(sampled(voxels), ROBUST))
    return (low, high) if high > low else (low, low + 1.0)


def is_hounsfield(voxels: np.ndarray) -> bool:
    """Whether the darkest and the brightest voxels are those of air and bone in a CT scan, where
    one number alone, with its mixtures, may be darker: what the scanner filled up."""
    some = sampled(voxels)
    padding, some = some[some < DARKEST], some[some >= DARKEST]
    if not len(some) or not (some.min() <= -900 and 200 <= some.max() <= 32767):
        return False
    return not len(padding) or bool(
        np.unique(padding, return_counts=True)[1].max() * 2 >= len(padding)
    )


def without_padding(voxels: np.ndarray) -> np.ndarray:
    """Hounsfield units, NaN where they are darker than air."""
    return np.where(voxels < DARKEST, np.float32(np.nan), voxels)


def picture(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """(h, w, 3) uint8: the middle slices from the feet, from the front and from the right, beside
    each other; what is missing is grey.

    Args:
        value: see `volume_frame`.
        low, high: intensities that become black and white.
    """
    voxels, spacing = frame.voxels_of(value), frame.spacing_of(value)
    middle = [side // 2 for side in voxels.shape]
    shown = []
    for axis in (2, 1, 0):
        plane = np.take(voxels, middle[axis], axis).T[::-1]
        across, down = (spacing[a] for a in range(3) if a != axis)
        shown.append(_scaled(plane, down, across))
    height = max(len(plane) for plane in shown)
    parts = []
    for plane in shown:
        spare = height - len(plane)
        around = ((spare // 2, spare - spare // 2), (GAP, GAP))
        parts.append(np.pad(plane, around, constant_values=np.nan))
    whole = np.concatenate(parts, 1)
    grey = (whole - low) / max(high - low, 1e-12) * 255
    grey = np.nan_to_num(grey, nan=GREY).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(grey[..., None].repeat(3, 2))


def _scaled(plane: np.ndarray, down: float, across: float) -> np.ndarray:
    """A slice with square pixels, by the nearest voxels."""
    height, width = plane.shape[0] * down, plane.shape[1] * across
    finest = min(down, across)
    scale = max(1 / finest, MIN_SIDE / max(height, width))
    scale = min(scale, MAX_SIDE / max(height, width))
    rows, columns = (max(8, min(MAX_SIDE, round(side * scale))) for side in (height, width))
    y = (np.arange(rows) + 0.5) * plane.shape[0] / rows
    x = (np.arange(columns) + 0.5) * plane.shape[1] / columns
    out: np.ndarray = plane[y.astype(int)[:, None], x.astype(int)]
    return out


def statistics(
    values: Iterable[np.ndarray], low: float, high: float
) -> list[npt.NDArray[np.float64]]:
    """Groups of columns of n >= 1 values: a histogram of intensities from `low` to `high`, means of
    4 x 4 x 4 blocks and of their steps, the sides in millimetres (as logarithms), and the share of
    missing voxels."""
    rows = [_statistics(value, low, high) for value in values]
    return [np.stack(group) for group in zip(*rows)]


def _statistics(value: np.ndarray, low: float, high: float) -> list[np.ndarray]:
    voxels = frame.voxels_of(value)
    scaled = ((voxels - low) / max(high - low, 1e-12)).clip(0, 1)
    there = scaled[np.isfinite(scaled)]
    counts = np.histogram(there, BINS, (0, 1))[0] / max(len(there), 1)
    means = _block_means(scaled)
    sides = np.log([n * step for n, step in zip(voxels.shape, frame.spacing_of(value))])
    spread = np.array([there.mean(), there.std()]) if len(there) else np.zeros(2)
    rough = np.array([_roughness(scaled, axis) for axis in range(3)])
    missing = np.array([1 - len(there) / voxels.size])
    return [counts, np.concatenate([spread, rough]), means, np.concatenate([sides, missing])]


def _block_means(scaled: np.ndarray) -> np.ndarray:
    """(64,): of a coarse grid of blocks, the mean of all where a block is empty."""
    counts, totals = np.isfinite(scaled), np.nan_to_num(scaled, nan=0.0)
    for axis in range(3):
        side = scaled.shape[axis]
        cell = np.minimum(np.arange(side) * BLOCKS // side, BLOCKS - 1)
        first = np.searchsorted(cell, np.arange(BLOCKS)).clip(max=side - 1)
        totals, counts = (np.add.reduceat(a, first, axis, np.float64) for a in (totals, counts))
    whole = totals.sum() / max(counts.sum(), 1)
    means: np.ndarray = np.where(counts > 0, totals / np.maximum(counts, 1), whole).ravel()
    return means


def _roughness(scaled: np.ndarray, axis: int) -> float:
    steps = np.abs(np.diff(scaled, axis=axis))
    steps = steps[np.isfinite(steps)]
    return float(steps.mean()) if steps.size else 0.0


def checked(raw: Any, limits: Limits) -> Raw:
    """An untrusted scan, after a look at its header.

    Args:
        raw: bytes of a NIfTI file, of one DICOM slice or of .npy, or parsed JSON: {"values":
            lists, "spacing": lists, "affine": lists}.
        limits: of the cost.

    Raises:
        TooLarge: it would cost more than `limits` allow.
        BadValue: it is of another kind, or damaged.
    """
    from amodal.modalities.shared.requests import file_of

    if isinstance(raw, dict) and VALUES in raw and raw.keys() <= {VALUES, AFFINE, SPACING, UNIT}:
        _check_cost(_of_dict(raw).voxels.size, limits)  # which opens no file
        return raw
    data = file_of(raw)
    if is_numpy(data):
        array = array_of(data)
        _check_cost(array.size, limits)
        return array
    if dicom.is_dicom(data):
        _check_cost(math.prod(dicom.shape_of(data)), limits)
        return data
    header = nifti.header_of(data)
    _check_cost(math.prod(header.shape), limits)
    return data


def _check_cost(numbers: int, limits: Limits) -> None:
    if numbers > limits.pixels:
        raise TooLarge(f"{numbers:,} voxels; at most {limits.pixels:,} are read")
