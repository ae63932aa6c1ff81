"""Raw values of text fields: what they say, and what they are written in."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from amodal.core.regular_file import regular
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.cells import is_missing
from amodal.modalities.shared.files import read_bytes


def read_text(raw: Raw) -> str:
    """The text of a raw value.

    Raises:
        BadValue: It is no text.
    """
    if isinstance(raw, (Path, bytes)):
        data = read_bytes(raw)
        try:
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadValue(
                f"not {error.encoding.upper()}: {error.reason} at byte {error.start}"
            ) from None
        if "\0" in text:  # what a disk leaves of blocks that were never written
            raise BadValue(
                f"a NUL at character {text.index(chr(0))}, which no text has: damaged, or of "
                "another kind"
            )
        return text
    if isinstance(raw, (list, tuple)) and all(isinstance(line, str) for line in raw):
        return "\n".join(raw)
    if isinstance(raw, str):
        return raw
    if is_missing(raw):
        raise BadValue("empty text")
    if isinstance(raw, (int, float, np.number)):
        return str(raw)
    raise BadValue(
        f"a {type(raw).__name__} is not text: expected text, a list of texts, a Path or bytes"
    )


def readable(raws: Iterable[Raw]) -> Iterator[str]:
    """The texts of those raw values that can be read."""
    for raw in raws:
        # what cannot be read goes into quarantine when it is loaded
        with contextlib.suppress(BadValue, UnicodeEncodeError):
            text = read_text(raw).strip()
            text.encode()
            yield text


def preview(raw: Raw) -> str:
    """The text of a raw value, as far as it can be read."""
    try:
        data = regular(raw).read_bytes() if isinstance(raw, Path) else raw
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    except OSError:
        return ""


def script(character: str) -> str:
    """Latin, Cyrillic, Cjk, …: the first word of the character's name in Unicode."""
    return unicodedata.name(character, "?").partition(" ")[0].capitalize()
