"""Arrays in a .zarr.zip (Zarr format 2), of which parts can be read.

The package zarr reads whole chunks. A shard of SSL4EO-S12 v1.1 has the values of 64 places at one
date in a chunk, so that a record, which is one place, would cost 64 times its bytes. Here the zip
is mapped, and of a chunk that Blosc compressed only the blocks with the record's bytes are
decompressed; other codecs of numcodecs take the whole chunk.
"""

from __future__ import annotations

import json
import lzma
import math
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amodal.core import AmodalError
from amodal.core.regular_file import regular

ENDING = ".zarr.zip"
CODECS = ("blosc", "zstd", "lz4", "gzip", "zlib", "bz2", "lzma")
"""Of bytes. Others, such as pickles, could run code that is in the file."""
TEXT = "vlen-utf8"
"""The filter of texts of any length."""
MAX_CHUNK = 2**31
"""Bytes of a chunk that is decompressed."""
HEADER = struct.Struct("<BBBBIII")
"""Of Blosc 1: versions, flags, bytes of a number, bytes, bytes of a block, compressed bytes."""
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)
"""What zipfile and codecs raise for files that are none, damaged, encrypted or of another version.
"""
STORED = 0x2
"""The flag of Blosc for bytes that were not compressed."""


@dataclass(frozen=True)
class Array:
    """An array in a zip.

    Attributes:
        name: of the array.
        shape, chunks: sides.
        dtype: of its numbers.
        fill: of chunks that were not written; None for zeros.
        codec: as JSON; None for none.
        order: "C" or "F".
        separator: between the numbers in the name of a chunk.
        attributes: beside the numbers.
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    codec: dict[str, Any] | None
    order: Literal["C", "F"]
    separator: str
    attributes: dict[str, Any]

    @property
    def absent(self) -> Any:
        """What stands where nothing was measured; None if nothing does.

        xarray moves `_FillValue` into the array's `fill_value`. There 0 is what writers put that
        know of no such number, so it is a value.
        """
        return self.attributes.get("_FillValue", self.fill or None)

    def decoded(self, stored: np.ndarray) -> np.ndarray:
        """Numbers as CF means them, float32: scaled, NaN where nothing was measured."""
        scale, offset = (self.attributes.get(n) for n in ("scale_factor", "add_offset"))
        values = stored.astype(np.float32)
        if self.absent is not None:
            values[stored == np.asarray(self.absent).astype(stored.dtype)] = np.nan
        if scale is not None or offset is not None:
            values = values * np.float32(1 if scale is None else scale) + np.float32(offset or 0)
        return values


class Damaged(AmodalError):
    """A file that is not what its layout promises."""


@dataclass(frozen=True)
class ZarrZip:
    """The arrays of a file. What is known of it is cached, for the files that were read last.

    Attributes:
        path: of the file, on this machine.
        version: bytes and time of the file, so that one that was replaced is read anew.
    """

    path: Path
    version: tuple[int, int] = (0, 0)

    @staticmethod
    def open(path: Path) -> ZarrZip:
        """The file as it is now."""
        stat = path.stat()
        return ZarrZip(path, (stat.st_size, stat.st_mtime_ns))

    def damaged(self, why: object) -> Damaged:
        """The error for this file."""
        return Damaged(f"{self.path} is damaged or half a file: {why}. Copy it anew.")

    def bytes_of(self, name: str) -> memoryview:
        """The content of an entry.

        Raises:
            Damaged: it is not there, or cut off.
        """
        entry = _entries(self).get(name)
        if entry is None:
            raise self.damaged(f"{name} is missing")
        offset, size, stored = entry
        if size > MAX_CHUNK:
            raise self.damaged(f"{name} promises {size:,} bytes, and {MAX_CHUNK:,} are read")
        try:
            if not stored:
                with zipfile.ZipFile(self.path) as archive:
                    return memoryview(archive.read(name))
            content = _content(self)
            lengths = struct.unpack_from("<HH", content, offset + 26)
        except BROKEN as error:
            raise self.damaged(error) from error
        start = offset + 30 + sum(lengths)
        if start + size > len(content):
            raise self.damaged(f"{name} is cut off")
        return memoryview(content)[start : start + size]

    def array(self, name: str) -> Array:
        """What an array is.

        Raises:
            Damaged: it is none that can be read.
        """
        return _array(self, name)

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return f"{name}/.zarray" in _entries(self)

    def load(self, name: str) -> Array:
        """As `array`, without a cache."""
        entries = _entries(self)
        if "zarr.json" in entries:
            raise AmodalError(
                f"{self.path} is written in Zarr format 3; SSL4EO-S12 v1.1 and this reader have "
                "format 2: write it with zarr_format=2"
            )
        try:
            meta = json.loads(bytes(self.bytes_of(f"{name}/.zarray")))
            attributes = f"{name}/.zattrs"
            beside = json.loads(bytes(self.bytes_of(attributes))) if attributes in entries else {}
            text = meta["filters"] == [{"id": TEXT}]
            if meta["filters"] and not text:
                raise ValueError(f"{name} has filters {meta['filters']}, and none are read")
            codec = meta["compressor"]
            if codec is not None and codec["id"] not in CODECS:
                raise ValueError(f"{name} has the codec {codec['id']!r}, not {', '.join(CODECS)}")
            dtype = np.dtype(meta["dtype"])
            if dtype.hasobject and not text:
                raise ValueError(f"{name} has objects of Python")
            made = Array(
                name,
                tuple(map(int, meta["shape"])),
                tuple(map(int, meta["chunks"])),
                dtype,
                meta["fill_value"],
                codec,
                "F" if meta["order"] == "F" else "C",
                str(meta.get("dimension_separator", ".")),
                dict(beside),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.damaged(f"{name}: {error}") from error
        if len(made.chunks) != len(made.shape) or min(made.chunks, default=1) < 1:
            raise self.damaged(f"{name} has chunks {made.chunks} of {made.shape}")
        if math.prod(made.chunks) * dtype.itemsize > MAX_CHUNK:
            raise self.damaged(f"{name} has chunks of more than {MAX_CHUNK:,} bytes")
        return made

    def read(self, name: str, *place: int) -> np.ndarray:
        """The numbers at one place of the first axes, all of the others.

        Args:
            name: of the array.
            place: numbers of the first axes, in range.

        Raises:
            Damaged: it cannot be read.
        """
        array = self.array(name)
        inner = array.shape[len(place) :]
        out = np.empty(inner, dtype=array.dtype)
        counts = [-(-side // chunk) for side, chunk in zip(inner, array.chunks[len(place) :])]
        first = [p // chunk for p, chunk in zip(place, array.chunks)]
        within = [p % chunk for p, chunk in zip(place, array.chunks)]
        for at in np.ndindex(*counts):
            piece = self._piece(array, (*first, *at), tuple(within))
            starts = [i * chunk for i, chunk in zip(at, array.chunks[len(place) :])]
            target = tuple(
                slice(start, min(start + chunk, side))
                for start, chunk, side in zip(starts, array.chunks[len(place) :], inner)
            )
            out[target] = piece[tuple(slice(t.stop - t.start) for t in target)]
        return out

    @staticmethod
    def _key(array: Array, chunk: tuple[int, ...]) -> str:
        return f"{array.name}/{array.separator.join(map(str, chunk)) or '0'}"

    def _piece(self, array: Array, chunk: tuple[int, ...], within: tuple[int, ...]) -> np.ndarray:
        """A part of a chunk: one place of its first axes."""
        key = self._key(array, chunk)
        inner = array.chunks[len(within) :]
        if key not in _entries(self):
            fill = 0 if array.fill is None else array.fill
            return np.full(inner, fill, dtype=array.dtype)
        count = math.prod(inner)
        start = int(np.ravel_multi_index(within, array.chunks[: len(within)])) if within else 0
        try:
            blosc = array.codec is not None and array.codec["id"] == "blosc"
            if blosc and array.order == "C" and not array.dtype.hasobject:
                size = array.dtype.itemsize
                data = blosc_part(self.bytes_of(key), start * count * size, count * size)
                return np.frombuffer(data, dtype=array.dtype).reshape(inner)
            whole = _whole_chunk(self, array.name, key).reshape(array.chunks, order=array.order)
            piece: np.ndarray = whole[within]
            return piece
        except BROKEN as error:
            raise self.damaged(f"{key}: {error}") from error


@lru_cache(256)
def _entries(archive: ZarrZip) -> dict[str, tuple[int, int, bool]]:
    """Name -> where it begins in the zip, its bytes and whether they are stored as they are; of a
    name that was written twice the later one.

    Raises:
        Damaged: it is no whole zip.
    """
    try:
        with zipfile.ZipFile(regular(archive.path)) as opened:
            return {
                info.filename: (
                    info.header_offset,
                    info.file_size,
                    info.compress_type == zipfile.ZIP_STORED,
                )
                for info in opened.infolist()
            }
    except BROKEN as error:
        raise archive.damaged(error) from error


@lru_cache(64)  # each holds a file open
def _content(archive: ZarrZip) -> mmap.mmap:
    """The bytes of the file, mapped."""
    with open(archive.path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(2048)
def _array(archive: ZarrZip, name: str) -> Array:
    return archive.load(name)


@lru_cache(4)
def _whole_chunk(archive: ZarrZip, name: str, key: str) -> np.ndarray:
    """The numbers of a chunk. A few are held: neighbours of a record are in it."""
    array = archive.array(name)
    data = bytes(archive.bytes_of(key))
    if array.codec is not None:
        data = library().get_codec(array.codec).decode(data)
    if array.dtype.hasobject:
        return np.asarray(library().VLenUTF8().decode(data), dtype=object)
    return np.frombuffer(data, dtype=array.dtype)


def blosc_part(data: memoryview, start: int, count: int) -> bytes:
    """Some of the bytes that Blosc compressed, by decompressing the blocks that have them.

    A block with a header of its own is what Blosc makes of those bytes alone.

    Args:
        data: the compressed chunk.
        start, count: bytes, of the chunk decompressed.

    Raises:
        ValueError: the chunk is shorter, or no chunk of Blosc.
    """
    if len(data) < HEADER.size:
        raise ValueError("no chunk of Blosc")
    version, inner, flags, size, total, block, packed = HEADER.unpack_from(data)
    if start + count > total or packed > len(data) or block < 1:
        raise ValueError(f"{total:,} bytes, expected {start + count:,}")
    if flags & STORED:
        return bytes(data[HEADER.size + start : HEADER.size + start + count])
    blocks = -(-total // block)
    first, last = start // block, (start + count - 1) // block
    # the last block may be shorter; Blosc knows it as such behind a whole one only
    if last == blocks - 1 and total % block and first == last:
        first = max(first - 1, 0)
    index_end = HEADER.size + 4 * blocks
    if index_end > packed:
        raise ValueError(f"an index of {blocks:,} blocks in {packed:,} bytes")
    begins = struct.unpack_from(f"<{blocks}I", data, HEADER.size)
    if not all(index_end <= begin < packed for begin in begins):
        raise ValueError(f"a block begins beyond the {packed:,} bytes")
    bounds = sorted([*begins, packed])  # threads write blocks in any order
    pieces = []
    for i in range(first, last + 1):
        end = bounds[bounds.index(begins[i]) + 1]
        pieces.append(bytes(data[begins[i] : end]))
    length = min((last + 1) * block, total) - first * block
    table = HEADER.size + 4 * len(pieces)
    offsets = [table + sum(map(len, pieces[:i])) for i in range(len(pieces))]
    body = b"".join(pieces)
    header = HEADER.pack(version, inner, flags, size, length, block, table + len(body))
    index = struct.pack(f"<{len(pieces)}I", *offsets)
    made: bytes = library().blosc.decompress(header + index + body)
    offset = start - first * block
    return bytes(made[offset : offset + count])


def library() -> Any:
    """The package numcodecs.

    Raises:
        AmodalError: it is not installed.
    """
    try:
        import numcodecs
        import numcodecs.blosc
    except ImportError as error:
        raise AmodalError(
            f"{ENDING} needs the package numcodecs: pip install 'amodal[zarr]' ({error})"
        ) from None
    return numcodecs
