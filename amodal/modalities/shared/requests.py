"""Untrusted values: checks before a modality may decode them.

Everything here works on bytes or on parsed JSON of a request. Nothing is ever opened by name: a
text in the place of a picture or a sound is rejected, although a modality would read it as a path.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from amodal.modalities.shared.base import BadValue
from amodal.modalities.shared.files import is_numpy
from amodal.modalities.shared.formatting import not_json

MIB = 2**20
MAX_TEXT_ARRAY = 16_000_000
"""Texts times the length of the longest: an array of texts gives each that much room."""
MAX_DEPTH = 4
MAX_COLUMNS = 10_000
NUMPY, ZIP = b"\x93NUMPY", b"PK"


@dataclass(frozen=True)
class Limits:
    """The maximum cost of a value.

    Attributes:
        json: bytes of JSON or of a table of text, which take far more memory once they are parsed.
        entries: numbers, texts and brackets in JSON.
        pixels: of a picture, by its header, before anything is decoded.
        sound: seconds of a recording, by its header.
        characters: of a text.
    """

    json: int = 4 * MIB
    entries: int = 1_000_000
    pixels: int = 50_000_000
    sound: float = 120.0
    characters: int = 200_000


class TooLarge(BadValue):
    """A value that would cost more than the limits allow."""


class NotJson(BadValue):
    """Bytes that are no JSON."""


def parsed(data: bytes, limits: Limits) -> Any:
    """Parse strict JSON: no NaN, no duplicate names.

    Raises:
        TooLarge: it is above the limits.
        NotJson: it cannot be parsed.
    """
    if len(data) > limits.json:
        raise TooLarge(f"{len(data):,} bytes of JSON; at most {limits.json:,} are read")
    entries = data.count(b",") + 4 * (data.count(b"[") + data.count(b"{"))
    if entries > limits.entries:
        raise TooLarge(
            f"about {entries:,} entries in this JSON; at most {limits.entries:,} are read"
        )
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise NotJson(not_json(error)) from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON; leave out what is missing, or say null")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("the same name twice in one object")
    return result


def file_of(raw: Any) -> bytes:
    """The bytes of a file.

    Raises:
        BadValue: it is anything else.
    """
    if not isinstance(raw, bytes):
        raise BadValue(
            'expected the bytes of a file, uploaded or as {"base64": "..."}, '
            f"not {named(raw)}; names of files are not opened"
        )
    if not raw:
        raise BadValue("an empty file")
    if raw.startswith(ZIP):
        raise BadValue("zip archives (.npz too) are not unpacked; send what is in them")
    return raw


def array_of(data: bytes) -> np.ndarray:
    """A .npy file of numbers that is as long as its header declares.

    numpy allocates what the header declares before it reads on.

    Raises:
        BadValue: it is anything else.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(stream)
        size = len(data) - stream.tell()
        if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"its header says shape {shape} of {dtype}")
        stream.seek(0)
        array: np.ndarray = np.load(stream, allow_pickle=False)
        return array
    except Exception as error:
        raise BadValue(f"not a .npy file of numbers: {error}") from None


def text_of(raw: Any, limits: Limits) -> str | bytes:
    """Text, or its bytes.

    Raises:
        BadValue: it is anything else.
        TooLarge: it is above the limits.
    """
    if not isinstance(raw, (str, bytes)):
        raise BadValue(f"expected text, not {named(raw)}")
    if len(raw) > (limits.characters if isinstance(raw, str) else 4 * limits.characters):
        raise TooLarge(f"{len(raw):,} characters; at most {limits.characters:,} are read")
    return raw


def cells_of(raw: Any, limits: Limits) -> dict[str, Any] | list[Any]:
    """Rows of tables and lists of events; bytes are JSON.

    Raises:
        BadValue: it is anything else, or nested too deep.
        TooLarge: it is above the limits.
    """
    value = parsed(raw, limits) if isinstance(raw, bytes) else raw
    if not isinstance(value, (dict, list)):
        raise BadValue(f"expected an object or a list, not {named(value)}")
    _measure(value)
    return value


def numbers_of(raw: Any, limits: Limits) -> np.ndarray | str | bytes | dict[str, Any] | list[Any]:
    """Numbers as lists, as a .npy file, or as a file of text.

    Raises:
        BadValue: it is anything else.
        TooLarge: it is above the limits.
    """
    if not isinstance(raw, bytes):
        return cells_of(raw, limits)
    return array_of(raw) if is_numpy(raw) else text_of(file_of(raw), limits)


def _measure(value: Any) -> None:
    """Raise BadValue for deep nesting, TooLarge for texts that would make too large an array."""
    level, cells, longest = [value], 0, 0
    for _ in range(MAX_DEPTH):
        inside = [p for v in level for p in (v.values() if isinstance(v, dict) else v)]
        level = [part for part in inside if isinstance(part, (dict, list))]
        cells += len(inside) - len(level)
        longest = max((len(part) for part in inside if isinstance(part, str)), default=longest)
    if level:
        raise BadValue(f"nested more than {MAX_DEPTH} deep")
    if cells * longest > MAX_TEXT_ARRAY:
        raise TooLarge(f"{cells:,} cells, of which the longest has {longest:,} characters")


def named(value: Any) -> str:
    """The JSON type of a value, in words."""
    words = {str: "text", bytes: "bytes", list: "a list", dict: "an object", bool: "true or false"}
    return words.get(type(value), "null" if value is None else "a number")
