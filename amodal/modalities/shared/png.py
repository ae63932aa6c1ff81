"""Checks of a PNG, and of the sides of any picture, before a pixel is decoded."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from amodal.modalities.shared.base import BadValue

PNG = b"\x89PNG\r\n\x1a\n"
CHECKED_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf")
"""The parts of a PNG that decide how it looks."""


MAX_SIDE = 65_535
"""Of a picture in pixels, as in JPEG. A longer one is a line: few bytes, and a matrix of its length
for each augmentation."""
DENSE = 100
"""Bytes of pixels to one of a PNG from which its content is counted. Photographs have 1 to 5."""
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> numbers a pixel."""


@contextmanager
def header_of(source: str | IO[bytes]) -> Iterator[Any]:
    """A picture of Pillow's of which no pixel is read, so that their number is no danger.

    Args:
        source: the path of a file, or the file.
    """
    with warnings.catch_warnings():
        # who decodes the picture says that it is too large, in words of ours
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(source) as picture:
            yield picture


def check_sides(width: int, height: int) -> None:
    """Raise BadValue where a side is longer than any camera or screen has it."""
    if max(width, height) > MAX_SIDE:
        raise BadValue(
            f"{width:,} x {height:,} pixels; a side of a picture has at most {MAX_SIDE:,}"
        )


def _check_length(data: bytes, header: bytes, compressed: Sequence[memoryview]) -> None:
    """Raise BadValue where there are fewer pixels than a PNG of an unusual density declares: Pillow
    makes the others black.

    Args:
        data: The file.
        header: Content of IHDR.
        compressed: Contents of IDAT.
    """
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
    check_sides(width, height)
    if width * height > (Image.MAX_IMAGE_PIXELS or 0):
        return  # Pillow refuses it by name, before a pixel is decoded
    samples = PNG_SAMPLES.get(header[9], 1)
    declared = height * -(-width * samples * header[8] // 8)
    # interlaced lines are other ones, of the same number of pixels at least
    if declared <= DENSE * len(data):
        return
    inflate, found = zlib.decompressobj(), 0
    try:
        for part in compressed:
            rest = bytes(part)
            while rest and found < declared:
                found += len(inflate.decompress(rest, 2**20))
                rest = inflate.unconsumed_tail
    except zlib.error as error:
        raise BadValue(f"damaged picture: {error}") from None
    if found < declared:
        raise BadValue(
            f"damaged picture: its {width:,} x {height:,} pixels end after {found:,} of "
            f"{declared:,} bytes"
        )


def check_png(data: bytes) -> None:
    """Raise BadValue where a checksum is wrong, which Pillow does not check for pixels, and where
    pixels are lacking."""
    offset, header, compressed = len(PNG), b"", list[memoryview]()
    while offset + 12 <= len(data):
        kind, stop = (
            data[offset + 4 : offset + 8],
            offset + 8 + int.from_bytes(data[offset : offset + 4], "big"),
        )
        if kind in CHECKED_CHUNKS and stop + 4 <= len(data):
            if zlib.crc32(memoryview(data)[offset + 4 : stop]) != int.from_bytes(
                data[stop : stop + 4], "big"
            ):
                raise BadValue(
                    f"damaged picture: the checksum of {kind.decode()} at byte {offset:,} is wrong"
                )
        content = memoryview(data)[offset + 8 : stop]
        if kind == b"IHDR":
            header = bytes(content)
        elif kind == b"IDAT":
            compressed.append(content)
        offset = len(data) if kind == b"IEND" else stop + 4
    if len(header) == 13:
        _check_length(data, header, compressed)
