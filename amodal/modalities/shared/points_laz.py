"""Checks of LAZ before its library reads it: that takes lengths within a file on trust, and the
process ends where the memory for them is not there."""

from __future__ import annotations

import importlib
import io
import struct
from typing import Any

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.points_headers import LAS_FORMAT, VLR, points_of

USER, RECORD = b"laszip encoded", 22204
"""Of the record that says how points are packed (LASzip specification, section 3)."""
TABLE = 8
"""Bytes before the chunks that say where their table is, and of its own head."""
CHUNKS, LAYERED = 2, 3
"""Ways of packing: chunks of points, and chunks of layers."""
ITEMS, ITEM = 32, 6
"""Bytes before the number of items of that record, and bytes of an item: kind, size, version."""
LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
"""Kind of an item -> its layers; of extra bytes (14) each is a layer."""
EXTRA = 14
CHUNK_POINTS = 2**24
"""Of a chunk at most; writers take 50,000."""


def check_chunks(data: bytes) -> None:
    """Check that the chunks of a LAZ file lie within it.

    Args:
        data: the file, whose header is right.

    Raises:
        BadValue: they do not, or the file does not say where they are.
    """
    (head,), start, records = (
        struct.unpack_from("<H", data, 94),
        *struct.unpack_from("<II", data, 96),
    )
    packed = _packing(data, head, records)
    if packed is None or start + TABLE > len(data):
        raise BadValue("damaged LAZ: it does not say how its points are packed")
    (table,) = struct.unpack_from("<q", data, start)
    if not start + TABLE <= table <= len(data) - TABLE:
        raise BadValue("truncated LAZ: the table of its chunks lies outside")
    (count,) = struct.unpack_from("<I", data, table + 4)
    # a chunk has a point at least, unpacked
    if count > len(data):
        raise BadValue(f"damaged LAZ: {count:,} chunks in {len(data):,} bytes")
    size, layers = _shape(packed)
    if size != struct.unpack_from("<H", data, LAS_FORMAT + 1)[0]:
        raise BadValue("damaged LAZ: points of two sizes")
    lazrs: Any = importlib.import_module("lazrs")
    stream = io.BytesIO(data)
    stream.seek(start)
    chunks = lazrs.read_chunk_table(stream, lazrs.LazVlr(packed))
    held = sum(length for _, length in chunks)
    if held > table - start - TABLE or any(points > CHUNK_POINTS for points, _ in chunks):
        raise BadValue(
            f"damaged LAZ: chunks of {held:,} bytes, and {table - start - TABLE:,} bytes of points"
        )
    if sum(points for points, _ in chunks) < points_of(data):
        raise BadValue("damaged LAZ: its chunks have fewer points than its header promises")
    if layers:
        _check_layers(data, start + TABLE, [length for _, length in chunks], size, layers)


def _shape(packed: bytes) -> tuple[int, int]:
    """Bytes of a point, and layers of a chunk.

    Args:
        packed: the record that says how points are packed.

    Raises:
        BadValue: it is damaged, or of a way that is not read.
    """
    if len(packed) < ITEMS + 2:
        raise BadValue("damaged LAZ: it does not say how its points are packed")
    way, (count,) = packed[0], struct.unpack_from("<H", packed, ITEMS)
    if len(packed) < ITEMS + 2 + ITEM * count or not count:
        raise BadValue("damaged LAZ: it does not say how its points are packed")
    starts = range(ITEMS + 2, ITEMS + 2 + ITEM * count, ITEM)
    items = [struct.unpack_from("<HH", packed, place) for place in starts]
    if way not in (CHUNKS, LAYERED) or any(
        (k >= min(LAYERS)) != (way == LAYERED) for k, _ in items
    ):
        raise BadValue(f"damaged LAZ, or packed in a way that is not read ({way})")
    layers = sum(size if kind == EXTRA else LAYERS.get(kind, 0) for kind, size in items)
    return sum(size for _, size in items), layers


def _check_layers(data: bytes, place: int, chunks: list[int], size: int, layers: int) -> None:
    """Check that the layers of each chunk fill it.

    Args:
        data: the file.
        place: where the first chunk begins.
        chunks: bytes of each.
        size: bytes of a point.
        layers: of a chunk.

    Raises:
        BadValue: they do not.
    """
    # the first point as it is, the number of points, and the bytes of each layer
    before = size + 4 + 4 * layers
    for held in chunks:
        if before > held:
            raise BadValue(f"damaged LAZ: a chunk of {held:,} bytes")
        lengths = struct.unpack_from(f"<{layers}I", data, place + size + 4)
        if before + sum(lengths) != held:
            raise BadValue(f"damaged LAZ: layers of {sum(lengths):,} bytes in a chunk of {held:,}")
        place += held


def _packing(data: bytes, place: int, records: int) -> bytes | None:
    """The content of the record that says how points are packed."""
    for _ in range(records):
        if place + VLR > len(data):
            return None
        user, (number, length) = (
            data[place + 2 : place + 18],
            struct.unpack_from("<HH", data, place + 18),
        )
        place += VLR + length
        if user.rstrip(b"\0") == USER and number == RECORD:
            return data[place - length : place]
    return None
