"""Values from strangers: what is checked before a modality may decode them.

Everything here works on bytes or on parsed JSON that came with the request. Nothing is ever opened by name: a text that stands where a
picture or a sound should be is refused, although a modality would take it for a path.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
from PIL import Image as Pillow

from amodal.core import AmodalError
from amodal.modalities import Modality, name_of
from amodal.modalities.shared.base import BadValue, shortened
from amodal.modalities.shared.sound import SeekableBytes
from amodal.serve.limits import Limits, Refused

log = logging.getLogger("amodal.serve")

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
SOUNDS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU")
SCANS, PASSES = 64, 12
"""Scans of a JPEG; progressive ones have about ten, and each goes over the whole picture however few bytes it takes. So of the largest
pictures no more than PASSES."""
RATES = (100, 1_000_000)  # Hz
SAMPLES = 64_000_000
CELLS = 16_000_000
"""Texts times the longest of them: an array of texts gives each as much room as the longest needs."""
DEPTH = 4
COLUMNS = 10_000
NUMPY, ZIP = b"\x93NUMPY", b"PK"


def parsed(data: bytes, limits: Limits) -> Any:
    """JSON as its standard has it: no NaN, no name twice. Raises Refused."""
    if len(data) > limits.json:
        raise Refused(413, f"{len(data):,} bytes of JSON; at most {limits.json:,} are read")
    entries = data.count(b",") + 4 * (data.count(b"[") + data.count(b"{"))
    if entries > limits.entries:
        raise Refused(413, f"about {entries:,} entries in this JSON; at most {limits.entries:,} are read")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"not JSON: {error}") from None


def _no_number(word: str):
    raise ValueError(f"{word} is no number in JSON; leave out what is missing, or say null")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the same name twice in one object")
    return found


def decoded(modality: Modality, name: str, raw: Any, limits: Limits) -> np.ndarray:
    """A value of the sense `name` in its modality's canonical form. raw: bytes that were uploaded, or what JSON says; bytes in JSON are
    {"base64": "..."}. Raises Refused."""
    kind = name_of(modality)
    try:
        return READERS.get(kind, _only_bytes)(modality, _unwrapped(raw), limits)
    except AmodalError as error:
        raise Refused(422, f"{shortened(name)} ({kind}): {error}") from None
    except Refused as error:
        raise Refused(error.status_code, f"{shortened(name)} ({kind}): {error.detail}") from None
    except Exception as error:  # decoders raise whatever damaged data make them stumble over first
        log.warning("a value of the kind %s was not decodable: %r", kind, error)
        raise Refused(422, f"{shortened(name)} ({kind}): damaged ({type(error).__name__})") from None


def _unwrapped(raw: Any) -> Any:
    if isinstance(raw, dict) and raw.keys() == {"base64"} and isinstance(raw["base64"], str):
        try:
            return base64.b64decode(raw["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise BadValue("what stands under base64 is not base64") from None
    return raw


def _picture(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    data = _file(raw)
    if data.startswith(NUMPY):
        return modality.decode(_array(data))
    try:
        picture = Pillow.open(io.BytesIO(data), formats=PICTURES)
        _allow_pixels(picture, limits)
        if any(tile[0] in Pillow.DECODERS for tile in picture.tile):
            raise BadValue("a picture in an old form that is slow to read; save it as PNG")
        scans = data.count(b"\xff\xda") if picture.format == "JPEG" else 1
        if scans > SCANS or scans * picture.width * picture.height > PASSES * limits.pixels:
            raise BadValue(f"a JPEG of {scans} scans")
        if near := getattr(modality, "size", 0):
            picture.draft(None, (2 * near, 2 * near))
        picture.load()
        _allow_pixels(picture, limits)
    except (BadValue, Refused):
        raise
    except Pillow.DecompressionBombError as error:
        raise Refused(413, f"too many pixels: {error}") from None
    except Pillow.UnidentifiedImageError:
        raise BadValue(f"no picture in a format that is taken: {', '.join(PICTURES)}, or .npy") from None
    except Exception as error:  # as in the image modality
        raise BadValue(f"damaged picture: {error}") from None
    return modality.decode(picture)


def _allow_pixels(picture: Pillow.Image, limits: Limits) -> None:
    width, height = picture.size
    if width * height > limits.pixels:
        raise Refused(413, f"{width} x {height} pixels; at most {limits.pixels:,} are read")


def _sound(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    data = _file(raw)
    most = getattr(modality, "max_seconds", 0) or limits.sound
    if data.startswith(NUMPY):
        array = _array(data)
        if array.size and max(array.shape) > limits.sound * modality.rate:
            raise Refused(413, f"{max(array.shape):,} samples; at most {limits.sound:g} seconds are read")
        return modality.decode(array)
    try:
        with soundfile.SoundFile(SeekableBytes(data)) as file:
            frames, rate, channels, kind = file.frames, file.samplerate, file.channels, file.format
    except Exception as error:
        raise BadValue(f"damaged sound, or none that libsndfile reads: {error}") from None
    if kind not in SOUNDS:
        raise BadValue(f"a sound file of the format {kind}; taken are {', '.join(SOUNDS)}, or .npy")
    if not RATES[0] <= rate <= RATES[1]:
        raise BadValue(f"a sampling rate of {rate} Hz; {RATES[0]} to {RATES[1]:,} are read")
    if frames > limits.sound * rate or min(frames, most * rate) * channels > SAMPLES:
        raise Refused(413, f"{frames / rate:,.0f} seconds of {channels} channels; at most {limits.sound:g} are read")
    return modality.decode(data)


def _words(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    if not isinstance(raw, (str, bytes)):
        raise BadValue(f"expected text, not {_said(raw)}")
    if len(raw) > (limits.characters if isinstance(raw, str) else 4 * limits.characters):
        raise Refused(413, f"{len(raw):,} characters; at most {limits.characters:,} are read")
    return modality.decode(raw)


def _cells(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    """Rows of tables and lists of events, of which even bytes are JSON."""
    value = parsed(raw, limits) if isinstance(raw, bytes) else raw
    if not isinstance(value, (dict, list)):
        raise BadValue(f"expected an object or a list, not {_said(value)}")
    _measure(value)
    return modality.decode(value)


def _steps(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    """Series: JSON, or bytes of .npy or of a table of text."""
    if not isinstance(raw, bytes) or raw.lstrip()[:1] in (b"{", b"["):
        return _cells(modality, raw, limits)
    if raw.startswith(NUMPY):
        return modality.decode(_array(raw))
    data = _file(raw)
    head = data.partition(b"\n")[0]
    if len(data) > limits.json or max(map(head.count, (b",", b";", b"\t"))) > COLUMNS:
        raise Refused(413, f"{len(data):,} bytes of text in columns; at most {limits.json:,}, {COLUMNS:,} columns")
    return modality.decode(data)


def _only_bytes(modality: Modality, raw: Any, limits: Limits) -> np.ndarray:
    return modality.decode(_file(raw))


READERS: dict[str, Callable[[Modality, Any, Limits], np.ndarray]] = {
    "image": _picture,
    "audio": _sound,
    "text": _words,
    "sequence": _words,
    "table": _cells,
    "events": _cells,
    "series": _steps,
}


def _file(raw: Any) -> bytes:
    if not isinstance(raw, bytes):
        raise BadValue(
            f'expected the bytes of a file, uploaded or as {{"base64": "..."}}, not {_said(raw)}; names of files are not opened'
        )
    if not raw:
        raise BadValue("an empty file")
    if raw.startswith(ZIP):
        raise BadValue("zip archives (.npz too) are not unpacked; send what is in them")
    return raw


def _array(data: bytes) -> np.ndarray:
    """A .npy file of numbers that is as long as its header says: numpy makes room for what the header says before it reads on."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(stream)
        if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"its header says shape {shape} of {dtype}")
        stream.seek(0)
        return np.load(stream, allow_pickle=False)
    except Exception as error:
        raise BadValue(f"not a .npy file of numbers: {error}") from None


def _measure(value: Any) -> None:
    """Raises BadValue for what is too deep, Refused for texts that would make too large an array."""
    level, cells, longest = [value], 0, 0
    for _ in range(DEPTH):
        inside = [part for thing in level for part in (thing.values() if isinstance(thing, dict) else thing)]
        level = [part for part in inside if isinstance(part, (dict, list))]
        cells += len(inside) - len(level)
        longest = max((len(part) for part in inside if isinstance(part, str)), default=longest)
    if level:
        raise BadValue(f"nested more than {DEPTH} deep")
    if cells * longest > CELLS:
        raise Refused(413, f"{cells:,} cells, of which the longest has {longest:,} characters")


def _said(value: Any) -> str:
    return {str: "text", bytes: "bytes", list: "a list", dict: "an object", bool: "true or false"}.get(
        type(value), "null" if value is None else "a number"
    )
