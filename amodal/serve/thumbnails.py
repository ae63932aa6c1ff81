"""Small pictures of values, each made once."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from PIL import Image

from amodal.modalities.shared.requests import MIB

SIDE = 192
"""Pixels of the longer side."""
SMALL = 96
"""Pixels of the longer side up to which a picture is exact."""
MAX_BYTES = 64 * MIB
"""Of all thumbnails in memory; those that were not asked for longest go first."""


class Thumbnails:
    """Thumbnails in memory.

    Args:
        picture: (number of a record, field) -> (h, w, 3) uint8. What it raises goes through.
        max_bytes: Of all of them.
    """

    def __init__(self, picture: Callable[[int, str], np.ndarray], max_bytes: int = MAX_BYTES):
        self.picture, self.max_bytes = picture, max_bytes
        self.size = 0
        self._changing = Lock()
        self._made: OrderedDict[tuple[int, str], bytes] = OrderedDict()

    def get(self, number: int, field: str) -> bytes:
        """The PNG or JPEG of a value."""
        name = (number, field)
        with self._changing:
            if name in self._made:
                self._made.move_to_end(name)
                return self._made[name]
        return self.keep(number, field, self.picture(number, field))

    def keep(self, number: int, field: str, pixels: np.ndarray) -> bytes:
        """Make the PNG or JPEG of a value that is decoded already: (h, w, 3) uint8."""
        name, made = (number, field), encoded(pixels)
        with self._changing:
            self.size += len(made) - len(self._made.pop(name, b""))
            self._made[name] = made
            while self.size > self.max_bytes and self._made:
                self.size -= len(self._made.popitem(last=False)[1])
        return made


def encoded(pixels: np.ndarray, side: int = SIDE) -> bytes:
    """A picture of up to `side` pixels: PNG where it is small, else JPEG.

    Args:
        pixels: (h, w, 3) uint8.
        side: Of the longer side.
    """
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    if max(picture.size) > SMALL:
        picture.thumbnail((side, side))
        picture.save(stream, "JPEG", quality=85)
    else:
        picture.save(stream, "PNG")
    return stream.getvalue()


def media_type(picture: bytes) -> str:
    """Of what `encoded` made."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
