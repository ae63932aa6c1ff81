"""DICOM series: slices in files of their own, put in order along the normal of their planes."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.volume_nifti import check_affine, check_size

MARK = b"DICM"
DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax of files that are compressed as a whole."""
DIRECTORY = b"1.2.840.10008.1.3.10"
"""The kind of files that list others."""
HEAD = 1024
"""Bytes in which a file says its kind."""
DOSE = "RTDOSE"
"""What scales its numbers by a tag of its own, DoseGridScaling."""
HOUNSFIELD = "HU"
TOLERANCE = 0.02
"""Share of the distance between slices that one may lie off."""
SAME = 1e-3
"""How far directions and spacings of the slices of one series may differ."""
MAX_SLICES = 8192
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM counts to the left and back, NIfTI to the right and front."""
REQUIRED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@dataclass(frozen=True)
class Slice:
    """One file.

    Attributes:
        name: of the file, for errors.
        content: of the file.
        series: its identifier.
        thickness: millimetres, 1 where the file does not say.
        unit: "HU" or "".
        shape: columns and rows.
        spacing: millimetres between columns and between rows.
        along: (2, 3) unit vectors along a row and along a column.
        position: (3,) millimetres of the first pixel.
    """

    name: str
    content: bytes
    series: str
    thickness: float
    unit: str
    shape: tuple[int, int]
    spacing: tuple[float, float]
    along: np.ndarray
    position: np.ndarray

    @property
    def depth(self) -> float:
        """Millimetres along the normal of the plane."""
        return float(np.cross(*self.along) @ self.position)


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin like a DICOM file."""
    return data[128:132] == MARK


def is_slice(data: bytes) -> bool:
    """Whether bytes begin like a DICOM file that is no table of contents, such as DICOMDIR."""
    return is_dicom(data) and not lists_files(data)


def lists_files(data: bytes) -> bool:
    """Whether bytes are those of a DICOMDIR, which lies beside slices."""
    return is_dicom(data) and DIRECTORY in data[:HEAD]


def read(files: Sequence[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray, str]:
    """The voxels of a series.

    Args:
        files: name and content of each slice, in any order.

    Returns:
        (columns, rows, slices) float32, NaN where the scanner filled up; (4, 4) indices ->
        millimetres to the right, front and top; and the unit, "HU" or "".

    Raises:
        BadValue: a file is no slice, slices are missing, or they are not of one series.
    """
    slices = _in_order([_slice(name, content) for name, content in files])
    first = slices[0]
    check_size((*first.shape, len(slices)))
    step = _step(slices)
    affine = np.eye(4)
    affine[:3, 0] = first.along[0] * first.spacing[0]
    affine[:3, 1] = first.along[1] * first.spacing[1]
    affine[:3, 2], affine[:3, 3] = step, first.position
    check_affine(affine)
    voxels = np.empty((*first.shape, len(slices)), dtype=np.float32)
    for i, one in enumerate(slices):
        voxels[:, :, i] = _pixels(one).T
    return voxels, TO_RAS @ affine, first.unit


def shape_of(content: bytes) -> tuple[int, int]:
    """Rows and columns of one slice, by its header alone.

    Raises:
        BadValue: it is none.
    """
    columns, rows = _slice("the file", content).shape
    return rows, columns


def _slice(name: str, content: bytes) -> Slice:
    pydicom = _library()
    if not is_dicom(content):
        raise BadValue(f"{name} is no DICOM file: the mark DICM is missing at byte 128")
    if DEFLATED in content:  # which pydicom unpacks whole, whatever it becomes
        raise BadValue(f"{name} is deflated: save it uncompressed, such as with dcmconv +te")
    try:
        with _quiet():
            header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
            missing = [tag for tag in REQUIRED if not header.get(tag)]
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise BadValue(
                    f"{name} has all slices in one file (enhanced DICOM): save it as NIfTI, such "
                    "as with dcm2niix"
                )
            if missing:
                raise BadValue(f"{name} is no slice of a scan: it does not say {missing[0]}")
            return _placed(name, header, content)
    except BadValue:
        raise
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise BadValue(f"{name} is a damaged DICOM file: {_short(error)}") from None


def _placed(name: str, header: Any, content: bytes) -> Slice:
    along = np.array([float(x) for x in header.ImageOrientationPatient]).reshape(2, 3)
    position = np.array([float(x) for x in header.ImagePositionPatient])
    down, across = (float(x) for x in header.PixelSpacing)
    numbers = [*along.ravel(), *position, down, across]
    lengths = np.linalg.norm(along, axis=1)
    if len(position) != 3 or not np.isfinite(numbers).all() or not (lengths > 0.5).all():
        raise BadValue(f"{name} does not say where it lies: its position is damaged")
    if min(down, across) <= 0:
        raise BadValue(f"{name} has pixels without a size: PixelSpacing is {down:g} x {across:g}")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise BadValue(f"{name} has colours; a scan has one number a voxel")
    shape = int(header.Columns), int(header.Rows)
    check_size((*shape, 1))
    thick = float(header.get("SliceThickness") or 1.0)
    return Slice(
        name,
        content,
        str(header.get("SeriesInstanceUID", "")),
        thick if math.isfinite(thick) and thick > 0 else 1.0,
        _unit(header),
        shape,
        (across, down),
        along / lengths[:, None],
        position,
    )


def _in_order(slices: list[Slice]) -> list[Slice]:
    """Slices of one series by their places, after a check that they are of one."""
    if not slices:
        raise BadValue("no DICOM slice in this folder")
    if len(slices) > MAX_SLICES:
        raise BadValue(f"{len(slices):,} slices in one folder, more than {MAX_SLICES:,}")
    first = slices[0]
    series = {one.series for one in slices}
    if len(series) > 1:
        raise BadValue(
            f"slices of {len(series)} series in one folder, such as {first.name}: put each series "
            "into a folder of its own"
        )
    for one in slices:
        if one.shape != first.shape:
            rows, columns = one.shape[::-1]
            raise BadValue(
                f"{one.name} has {rows} x {columns} pixels and {first.name} {first.shape[1]} x "
                f"{first.shape[0]}: take the one that is no slice of this scan out of the folder"
            )
        if not np.allclose(one.along, first.along, atol=SAME):
            raise BadValue(
                f"{one.name} has another orientation than {first.name}, such as a scout: take it "
                "out of the folder"
            )
        if not np.allclose(one.spacing, first.spacing, rtol=SAME):
            raise BadValue(
                f"{one.name} has pixels of {one.spacing[0]:g} mm and {first.name} of "
                f"{first.spacing[0]:g} mm: take the one that is no slice of this scan out"
            )
    return sorted(slices, key=lambda one: one.depth)


def _step(slices: Sequence[Slice]) -> np.ndarray:
    """(3,) millimetres from a slice to the next one."""
    first = slices[0]
    if len(slices) == 1:
        return np.asarray(np.cross(*first.along) * first.thickness)
    depths = np.array([one.depth for one in slices])
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    near = SAME * max(usual, SAME)
    if (gaps <= near).any():
        i = int(np.flatnonzero(gaps <= near)[0])
        raise BadValue(
            f"{slices[i].name} and {slices[i + 1].name} lie at the same place: leave one scan of "
            "each place in the folder (other echoes and times are other series)"
        )
    off = np.abs(gaps - usual) > TOLERANCE * usual
    if off.any():
        i = int(np.flatnonzero(off)[0])
        what = "a slice is missing" if gaps[i] > 1.5 * usual else "slices are unevenly spaced"
        raise BadValue(
            f"{what} between {slices[i].name} and {slices[i + 1].name}: they are {gaps[i]:.4g} mm "
            f"apart, and others {usual:.4g} mm; copy the series anew, or bring it to even spacing"
        )
    return np.asarray((slices[-1].position - first.position) / (len(slices) - 1))


def _pixels(one: Slice) -> np.ndarray:
    """(rows, columns) float32 in physical units."""
    syntax = ""
    try:
        with _quiet():
            whole = _library().dcmread(io.BytesIO(one.content))
            syntax = str(getattr(whole.file_meta.get("TransferSyntaxUID", ""), "name", ""))
            stored = np.asarray(whole.pixel_array)
            scale = "DoseGridScaling" if whole.get("Modality") == DOSE else "RescaleSlope"
            slope = float(whole.get(scale, 1) or 1)
            intercept = float(whole.get("RescaleIntercept", 0) or 0)
            missing = _filled_up(whole, stored)
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        packed = "JPEG" in syntax
        cure = ": pip install pylibjpeg[all], or save it uncompressed" if packed else ""
        what = f"packed as {syntax}" if packed else "damaged"
        raise BadValue(
            f"the pixels of {one.name} are {what}{cure or f': {_short(error)}'}"
        ) from None
    if stored.shape != one.shape[::-1]:
        raise BadValue(f"{one.name} has pixels of shape {stored.shape}, not as its header says")
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise BadValue(f"{one.name} has a rescale slope or intercept that is no number")
    pixels = (stored * slope + intercept).astype(np.float32)
    if missing is not None:
        pixels[missing] = np.nan
    pixels[~np.isfinite(pixels)] = np.nan
    return pixels


def _filled_up(header: Any, stored: np.ndarray) -> np.ndarray | None:
    """Which stored numbers are padding: one number, or all up to the limit of a range."""
    padding = header.get("PixelPaddingValue")
    if padding is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(padding), int(padding if limit is None else limit)))
    found: np.ndarray = (stored >= low) & (stored <= high)
    return found


def _unit(header: Any) -> str:
    kind, rescaled = str(header.get("Modality", "")), str(header.get("RescaleType", ""))
    return HOUNSFIELD if kind == "CT" and rescaled in ("", HOUNSFIELD) else ""


def _nothing(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what pydicom says of tags that nobody reads here."""
    logger = logging.getLogger("pydicom")
    logger.addFilter(_nothing)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.removeFilter(_nothing)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def _library() -> Any:
    try:
        import pydicom
    except ImportError:
        raise BadValue(
            "DICOM is read by pydicom, which is not installed: pip install 'amodal[volume]'"
        ) from None
    return pydicom
