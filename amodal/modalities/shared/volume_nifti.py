"""NIfTI: a header that is looked at before anything is unpacked, then voxels in physical units.

Headers are read by nibabel. Voxels are read here, as no library of them bounds what a compressed
file may unpack to.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.files import MAX_UNPACKED

GZIP = b"\x1f\x8b"
HEADERS = {348: "Nifti1Header", 540: "Nifti2Header"}
"""Bytes of a header -> the class of nibabel that reads it."""
START = 544
"""Bytes that hold either header and the flag of its extensions."""
MAX_VOXELS = 2**27
"""Of a scan that is read whole."""
MAX_BEFORE = 2**24
"""Bytes before the first voxel: the header and its extensions."""
AFTER = 2**20
"""Bytes behind the last voxel that are read for the checksum of a gzip file."""
METRES = {1: 1e3, 2: 1.0, 3: 1e-3}
"""Code of a unit of length -> millimetres."""
MIN_DETERMINANT = 1e-12
"""Of an affine whose columns have length 1: less is singular."""


@dataclass(frozen=True)
class Header:
    """What a file says about its voxels.

    Attributes:
        shape: voxels along each axis, as they are stored.
        dtype: of a stored number.
        start: byte of the first one.
        slope, intercept: stored number x slope + intercept = physical unit.
        affine: (4, 4), indices -> millimetres to the right, front and top.
        oriented: whether the file says how the patient lay; else `affine` has spacings alone.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    slope: float
    intercept: float
    affine: np.ndarray
    oriented: bool

    @property
    def frames(self) -> int:
        """Volumes in the file: 1 of a scan, more of a series in time."""
        return math.prod(self.shape[3:])


def is_nifti(data: bytes) -> bool:
    """Whether bytes begin like a NIfTI file, compressed or not."""
    try:
        start = _unpacked(data, START) if data[:2] == GZIP else data[:START]
    except BadValue:
        return False
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def header_of(data: bytes) -> Header:
    """The header of a file, without its voxels.

    Args:
        data: of the file, compressed or not.

    Raises:
        BadValue: it is no NIfTI file of one scan, or damaged.
    """
    start = _unpacked(data, START) if data[:2] == GZIP else data[:START]
    if not is_nifti(start):
        raise BadValue(
            "neither a NIfTI file (its header has no mark n+1 or n+2) nor a DICOM slice (no mark "
            "DICM at byte 128)"
        )
    size = 348 if start[344:347] in (b"n+1", b"ni1") else 540
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        raise BadValue(
            "the header of a pair of files (.hdr and .img): save both as one .nii, such as with "
            "nibabel.save"
        )
    if len(start) < size:
        raise BadValue(f"truncated: a header has {size} bytes, and this file {len(start)}")
    header: Any = getattr(library(), HEADERS[size])(start[:size], check=False)
    shape = _shape(header)
    dtype = _dtype(header)
    begin = float(header["vox_offset"])
    if not size <= begin <= MAX_BEFORE:
        raise BadValue(f"damaged header: its voxels begin at byte {begin:g}")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    # 0 and NaN say that numbers are stored as they are
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        raise BadValue("damaged header: scl_inter is no number, and scl_slope is one")
    oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    return Header(shape, dtype, int(begin), slope, intercept, _affine(header), oriented)


def _shape(header: Any) -> tuple[int, ...]:
    entries = [int(n) for n in header["dim"]]
    count = entries[0]
    if not 1 <= count <= 7 or min(entries[1 : count + 1]) < 1:
        raise BadValue(f"damaged header: its dimensions are {entries}")
    shape = entries[1 : count + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    shape += [1] * (3 - len(shape))
    if len(shape) > 4:
        raise BadValue(
            f"{len(shape)} dimensions of {' x '.join(map(str, shape))}: a scan has three, and a "
            "series of scans four; save them apart"
        )
    return tuple(shape)


def _dtype(header: Any) -> np.dtype[Any]:
    try:
        dtype = header.get_data_dtype()
    except Exception as error:  # a code that no type has
        raise BadValue(f"damaged header: {str(error)[:80]}") from None
    if dtype.kind not in "buif":
        raise BadValue(
            f"voxels of {dtype}: a scan has one real number a voxel; save colours, or real and "
            "imaginary part, apart"
        )
    found: np.dtype[Any] = np.dtype(dtype)
    return found


def _affine(header: Any) -> np.ndarray:
    """In millimetres, after a check that voxels have a size."""
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except Exception as error:  # quaternions that turn nothing
        raise BadValue(f"damaged header: no affine: {str(error)[:80]}") from None
    affine = _in_millimetres(affine, header)
    check_affine(affine)
    return affine


def affine_of(image: Any) -> np.ndarray:
    """The affine of an image of nibabel in millimetres, as that of a file."""
    return _in_millimetres(np.asarray(image.affine, dtype=np.float64), image.header)


def _in_millimetres(affine: np.ndarray, header: Any) -> np.ndarray:
    affine = affine.copy()
    if hasattr(header, "get_xyzt_units"):  # other kinds of images are in millimetres
        affine[:3] *= METRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def check_affine(affine: np.ndarray) -> None:
    """Raise a BadValue for an affine under which voxels have no volume."""
    columns = affine[:3, :3]
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(columns, axis=0)
        unit = columns / np.where(lengths > 0, lengths, 1)
    if not np.isfinite(affine).all() or not np.isfinite(lengths).all():
        raise BadValue("its affine has entries that are no numbers; write a right sform or qform")
    if not (lengths > 0).all() or abs(np.linalg.det(unit)) < MIN_DETERMINANT:
        raise BadValue(
            "its affine is singular, so that voxels have no size: write a right sform or qform, "
            "such as nibabel.Nifti1Image(voxels, affine)"
        )


def read(data: bytes, frame: int = -1, name: str = "") -> tuple[np.ndarray, Header]:
    """The voxels of one scan, in physical units, with axes as they are stored.

    Args:
        data: of the file.
        frame: which scan of a series, from 0; -1 where there must be one only.
        name: of the parameter that chooses the frame, for the error.

    Returns:
        (X, Y, Z) float32, NaN where missing, and the header.

    Raises:
        BadValue: it is no NIfTI file, damaged, too large, or of more than one scan.
    """
    header = header_of(data)
    shape = header.shape[:3]
    check_size(shape)
    if header.frames > 1 and not 0 <= frame < header.frames:
        what = f"{header.frames} scans in one file (4-D): choose one, {name or 'frame'} = 0 … "
        raise BadValue(f"{what}{header.frames - 1} in dataset.toml")
    count = math.prod(shape)
    begin = header.start + max(frame, 0) * count * header.dtype.itemsize * (header.frames > 1)
    end = begin + count * header.dtype.itemsize
    if data[:2] == GZIP:
        if end > MAX_BEFORE + MAX_UNPACKED:
            raise BadValue(
                f"scan {frame} of a compressed file ends at byte {end:,} of it, and at most "
                f"{MAX_UNPACKED:,} are unpacked: save that scan apart"
            )
        data = _unpacked(data, end, whole=True)
    if len(data) < end:
        raise BadValue(
            f"truncated: {len(data):,} bytes, and its header says at least {end:,}; copy it anew"
        )
    stored = np.frombuffer(data, header.dtype, count, begin).reshape(shape, order="F")
    voxels = stored.astype(np.float32)
    if header.slope != 1 or header.intercept != 0:
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = (stored * header.slope + header.intercept).astype(np.float32)
    voxels[~np.isfinite(voxels)] = np.nan
    return voxels, header


def check_size(shape: tuple[int, ...]) -> None:
    """Raise a BadValue for a scan that is too large to be read."""
    if (count := math.prod(shape)) > MAX_VOXELS:
        sides = " x ".join(f"{side:,}" for side in shape)
        raise BadValue(
            f"{sides} voxels are {count:,}, more than {MAX_VOXELS:,}: cut the scan into blocks"
        )


def _unpacked(data: bytes, most: int, whole: bool = False) -> bytes:
    """The first bytes of a gzip file, which may be fewer.

    Args:
        data: of the file.
        most: bytes to unpack.
        whole: read on, a little, to the checksum at its end.

    Raises:
        BadValue: it is damaged.
    """
    content, rest = bytearray(), data
    try:
        # some programs write a file as more than one member
        while rest[:2] == GZIP and len(content) < most:
            unpacker = zlib.decompressobj(wbits=31)
            content += unpacker.decompress(rest, most - len(content))
            if whole and not unpacker.eof:
                after = unpacker.decompress(unpacker.unconsumed_tail, AFTER)
                if not unpacker.eof and len(after) < AFTER:
                    raise BadValue(
                        "truncated gzip file: its end with the checksum is missing; copy it anew"
                    )
            rest = unpacker.unused_data
    except zlib.error as error:
        raise BadValue(f"damaged gzip file: {error}; copy it anew") from None
    return bytes(content)


def library() -> Any:
    """nibabel.

    Raises:
        BadValue: it is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise BadValue(
            "NIfTI is read by nibabel, which is not installed: pip install 'amodal[volume]'"
        ) from None
    return nibabel
