"""GeoTIFF and JPEG 2000 with many bands: their header without a library, their pixels by rasterio.

A file is always opened from its bytes and by one of `DRIVERS`: GDAL knows formats that name other
files, and files beside this one that change what is read.
"""

from __future__ import annotations

import mmap
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core.regular_file import regular
from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.raster_wavelengths import of_tags

DRIVERS = ("GTiff", "JP2OpenJPEG")
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""TIFF and BigTIFF, of either byte order."""
MAX_PIXELS = 2**27
"""Pixels times bands of a file that is read whole."""
SAMPLES, SCALE_TAG, TIE_TAG, MATRIX_TAG, KEYS_TAG = 277, 33550, 33922, 34264, 34735
"""Of TIFF: samples a pixel, and the tags of GeoTIFF 1.1 (OGC 19-008r4)."""
PICTURE_BANDS = 4
"""A picture has at most so many: colours and alpha."""
MAX_ENTRIES = 4096
DATE = re.compile(r"(?<!\d)(19|20)(\d\d)[-_.:]?(0[1-9]|1[0-2])[-_.:]?(0[1-9]|[12]\d|3[01])(?!\d)")
"""A day within the name of a file or a tag: 20200716, 2020-07-16, 2020:07:16 10:00."""
DATE_TAGS = ("ACQUISITIONDATETIME", "acquisition_date", "date", "datetime", "TIFFTAG_DATETIME")
UTM = re.compile(r"EPSG:32[67]\d\d")
EPOCH_YEAR = 2000
METRES_PER_DEGREE = 111_320.0
"""Along a meridian."""


@dataclass(frozen=True)
class Scene:
    """The pixels of a file and what it says about them.

    Attributes:
        pixels: (C, H, W) float32, in physical units (scale and offset applied), NaN where missing.
        bands: their names; "" for a band without.
        month: of its date, see `month_of`; NaN if unknown.
        resolution: metres of a pixel's side; 0 if unknown.
        crs: the coordinate reference system as text, "" for none.
        transform: the six numbers (a, b, c, d, e, f) of x = a column + b row + c and y = d column
            + e row + f.
        wavelengths: (C,) nanometres of the bands, NaN where the file does not say; () if not read.
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    month: float
    resolution: float
    crs: str
    transform: tuple[float, ...]
    wavelengths: tuple[float, ...] = ()


def month_of(text: str) -> float:
    """Months since January 2000 of the first day that a text names; NaN if it names none."""
    match = DATE.search(text)
    if match is None:
        return float("nan")
    century, year, month, day = match.groups()
    try:
        date = datetime(int(century + year), int(month), int(day), tzinfo=UTC)
    except ValueError:  # the 31st of a shorter month
        return float("nan")
    return month_number(date)


def month_number(date: datetime) -> float:
    """Months since January 2000: 6.5 is the middle of July 2000."""
    return (date.year - EPOCH_YEAR) * 12 + date.month - 1 + (date.day - 1) / 31


def date_of(month: float) -> str:
    """The inverse of `month_of`, "2020-07-16"; "" if unknown."""
    if not np.isfinite(month):
        return ""
    # the share of a float32 is not exact
    days = round(month * 31)
    year, month_index = divmod(days // 31, 12)
    return f"{EPOCH_YEAR + year:04d}-{month_index + 1:02d}-{days % 31 + 1:02d}"


def is_raster(file: Path | bytes) -> bool:
    """Whether a TIFF says that it lies on the earth, or has more bands than a picture.

    Args:
        file: a path, of which the header alone is read, or the content.
    """
    try:
        if isinstance(file, bytes):
            tags = dict(_tags(file))
        else:
            with open(regular(file), "rb") as stream:
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    tags = dict(_tags(content))
    # an empty file cannot be mapped (ValueError), an offset may be past all memory (OverflowError)
    except (OSError, struct.error, ValueError, OverflowError):
        return False
    placed = {SCALE_TAG, TIE_TAG, MATRIX_TAG, KEYS_TAG} & tags.keys()
    return bool(placed) or tags.get(SAMPLES, 1) > PICTURE_BANDS


def _tags(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """The tags of the first directory and the first number of each."""
    if data[:4] not in MAGIC:
        return
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    first, size, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    for entry in range(first, first + size * min(count, MAX_ENTRIES), size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        number = struct.unpack_from(f"{order}{form}", data, entry + value)[0] if form else 0
        yield tag, number


def sides(data: bytes) -> tuple[int, int, int]:
    """(bands, height, width) by the header alone.

    Raises:
        BadValue: it is no raster.
    """
    with _opened(data) as file:
        return file.count, file.height, file.width


def footprint(data: bytes) -> tuple[str, tuple[float, ...], int, int]:
    """Coordinate reference system, transform, height and width, by the header alone.

    Raises:
        BadValue: it is no raster.
    """
    with _opened(data) as file:
        return *_place(file), file.height, file.width


def _place(file: Any) -> tuple[str, tuple[float, ...]]:
    return file.crs.to_string() if file.crs else "", tuple(file.transform)[:6]


def read(data: bytes, name: str = "", *, longest: int = 0) -> Scene:
    """All bands of a file.

    Args:
        data: its bytes.
        name: of the file, which may name the day.
        longest: pixels of a side at most; 0 for as many as `MAX_PIXELS` allows. A larger file is
            refused by its header: a few bytes may unpack to a scene of a gigabyte.

    Raises:
        BadValue: it is no raster, damaged, or too large.
    """
    with _opened(data) as file:
        if longest and max(file.height, file.width) > longest:
            raise too_large(file.height, file.width, longest)
        if (size := file.count * file.height * file.width) > MAX_PIXELS:
            raise BadValue(
                f"{file.count} bands of {file.height:,} x {file.width:,} pixels are {size:,} "
                f"numbers, more than {MAX_PIXELS:,}: cut it into tiles"
            )
        if np.dtype(file.dtypes[0]).kind == "c":
            raise BadValue("complex numbers; save amplitude and phase, or real and imaginary part")
        pixels = np.ma.filled(file.read(masked=True).astype(np.float32), np.nan)
        scale, offset = (np.asarray(s, dtype=np.float32) for s in (file.scales, file.offsets))
        if (scale != 1).any() or (offset != 0).any():
            pixels = pixels * scale[:, None, None] + offset[:, None, None]
        pixels[~np.isfinite(pixels)] = np.nan
        tags = file.tags() | file.tags(ns="IMAGERY")
        return Scene(
            pixels.astype(np.float32),
            tuple(description or "" for description in file.descriptions),
            _month(tags, name),
            _metres(file),
            *_place(file),
            () if longest else _wavelengths(file),  # values of a field that is known need none
        )


def too_large(height: int, width: int, longest: int) -> BadValue:
    """The error for a value that no network reads whole."""
    return BadValue(
        f"{height:,} x {width:,} pixels, and a side has {longest} at most (size): cut it into tiles"
    )


def _wavelengths(file: Any) -> tuple[float, ...]:
    return tuple(of_tags(file.tags(i) | file.tags(i, ns="IMAGERY")) for i in file.indexes)


def _month(tags: Mapping[str, str], name: str) -> float:
    lower = {key.lower(): text for key, text in tags.items()}
    texts = [lower[key.lower()] for key in DATE_TAGS if key.lower() in lower]
    # when the file was written stands in TIFFTAG_DATETIME too, so that the name says it better
    for text in [*texts[:-1], Path(name).name, *texts[-1:]]:
        if np.isfinite(month := month_of(text)):
            return month
    return float("nan")


def _metres(file: Any) -> float:
    """Metres of a pixel's side, the geometric mean of both; 0 if unknown."""
    if file.crs is None:
        return 0.0
    try:
        per_unit = (
            METRES_PER_DEGREE if file.crs.is_geographic else float(file.crs.linear_units_factor[1])
        )
    except ValueError:  # a system that is neither of degrees nor of a plane
        return 0.0
    a, b, _, d, e, _ = tuple(file.transform)[:6]
    return float(abs(a * e - b * d) ** 0.5 * per_unit)


def metres_of(crs: str, side: float) -> float:
    """Metres of a length in the unit of a coordinate reference system; 0 if unknown.

    Args:
        crs: as text, "EPSG:32633".
        side: of a pixel.
    """
    if UTM.fullmatch(crs):  # by far the most, and without a library
        return side
    rasterio = _library()
    try:
        system = rasterio.crs.CRS.from_string(crs)
        unit = METRES_PER_DEGREE if system.is_geographic else system.linear_units_factor[1]
    except (ValueError, rasterio.errors.RasterioError):
        return 0.0
    return float(side * unit)


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """A dataset of rasterio."""
    rasterio = _library()
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of a file without a place
            rasterio.Env(
                GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
                GDAL_PAM_ENABLED="NO",
                GDAL_NUM_THREADS="1",
            ),
            rasterio.io.MemoryFile(data) as memory,
            memory.open(driver=list(DRIVERS), sharing=False) as file,
        ):
            yield file
    except UnicodeDecodeError:
        raise BadValue(
            "the name of its coordinate system is no UTF-8, which rasterio does not read; save it "
            "with a code of EPSG in its place, as QGIS or GDAL do"
        ) from None
    except rasterio.errors.RasterioError as error:
        raise BadValue(f"not a GeoTIFF or JPEG 2000 that can be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Why, without the name of the memory file."""
    cause = error.__cause__ or error
    text = re.sub(r"'?/vsimem/[^\s':]*'?:?\s*", "", str(cause)).strip()
    return text[:120] or type(error).__name__


def _library() -> Any:
    try:
        import rasterio
        import rasterio.crs
        import rasterio.errors
        import rasterio.io
    except ImportError:
        raise BadValue(
            "GeoTIFF is read by rasterio, which is not installed: pip install 'amodal[raster]'"
        ) from None
    return rasterio
