"""The modality of raw values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from amodal.modalities.sequence import is_sequence
from amodal.modalities.shared.base import Modality, Raw
from amodal.modalities.shared.cells import is_missing
from amodal.modalities.shared.columns import TIME_COLUMNS
from amodal.modalities.shared.files import unwrap

PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})
"""Endings that may stand behind another one."""
MAX_ROW_LENGTH = 256
"""Numbers of a list at most that is read as the row of a table: each gets its own scale, and a
token that is paid for."""


def guess(raw: str | Sequence[Raw]) -> str | None:
    """The name of the modality of a file ending (".png") or of raw values, None if there is none.

    Each value votes, and the most frequent vote wins. Whether arrays have one shape counts:
    one-dimensional ones of one length are rows of a table, of different lengths series.

    Args:
        raw: an ending, or up to ~200 values.
    """
    if isinstance(raw, str):
        return suffixes().get(raw.lower())
    present = [
        v
        for v in map(unwrap, raw)
        if isinstance(v, (np.ndarray, list, tuple, dict)) or not is_missing(v)
    ]
    shapes = {
        np.shape(v) if isinstance(v, np.ndarray) else (len(v),)
        for v in present
        if isinstance(v, (np.ndarray, list))
    }
    same_shape = len(shapes) <= 1
    votes = Counter(_one(v, same_shape) for v in present).most_common(1)
    return votes[0][0] if votes else None


def guess_column(values: Sequence[Any]) -> tuple[str | None, str]:
    """The modality of a column of bytes, arrays, lists or objects, and the reason.

    As `guess`, but a long row of numbers is a series and not a table. None if there is none.
    """
    try:
        kind = guess(values)
    except ValueError:  # lists of unequal lengths where numpy wants equal ones
        kind = None
    if kind is None:
        return None, f"no modality reads {type(values[0]).__name__} like these"
    if kind != "table" or isinstance(values[0], (bytes, dict)):
        return kind, type(values[0]).__name__
    is_long = np.size(values[0]) > MAX_ROW_LENGTH
    other = (
        '"table" if their order means nothing' if is_long else '"series" if they are steps in time'
    )
    why = f"{np.size(values[0])} numbers in a row; modality = {other}"
    return "series" if is_long else "table", why


def guess_texts(cells: Sequence[str]) -> tuple[str, str]:
    """The modality of a column of texts that name no files, and the reason."""
    if guess(cells[:200]) == "sequence":
        return "sequence", "strings of symbols"
    return "text", "text"


def file_kind(path: object) -> str | None:
    """The modality of a file: by its header where more than one reads its ending, else by that.

    Args:
        path: of this machine; or of a store, whose ending alone counts.
    """
    # the dots of a folder's name are no ending
    folder = isinstance(path, Path) and path.is_dir()
    ending = "" if folder else ending_of(str(getattr(path, "name", "")))
    return _recognised(path, ending) or suffixes().get(ending)


def ending_of(name: str) -> str:
    """The ending of a path with /, in small letters: ".png", and ".tar.gz" where a modality reads
    files that end so; "" for none. It is that of `PurePosixPath.suffix`, ten times as fast."""
    file = name[name.rfind("/") + 1 :]
    dot = file.rfind(".")
    if not 0 < dot < len(file) - 1:
        return ""
    ending = file[dot:].lower()
    if ending in PACKED:
        before = file.rfind(".", 0, dot)
        if before > 0 and (double := file[before:].lower()) in suffixes():
            return double
    return ending


def folder_suffixes() -> frozenset[str]:
    """Endings of files of which all in one folder are one value."""
    return frozenset[str]().union(*(kind.folder_suffixes for kind in _every().values()))


def folder_ending(file: Path) -> str:
    """The ending that a file should have, by its header, if all files of its folder are one value;
    "" for any other."""
    kind = _every().get(_recognised(file) or "")
    return min(kind.folder_suffixes, default="") if kind is not None else ""


def header_suffixes() -> frozenset[str]:
    """Endings of which the header of a file may say the modality."""
    default = Modality.recognises.__func__  # type: ignore[attr-defined]
    kinds = (k for k in _every().values() if getattr(k.recognises, "__func__", None) is not default)
    return frozenset(ending for kind in kinds for ending in kind.suffixes)


def _recognised(file: object, ending: str = "") -> str | None:
    """The modality that recognises a file, or bytes, by their header."""
    if not isinstance(file, (Path, bytes)):
        return None
    shared = (k for k in _every().items() if not ending or ending in k[1].suffixes)
    return next((name for name, kind in shared if kind.recognises(file)), None)


def suffixes() -> dict[str, str]:
    """Ending -> modality, the first that has it; the package's come before those of plug-ins."""
    return _suffixes(tuple(_every().items()))


@cache
def _suffixes(every: tuple[tuple[str, type[Modality]], ...]) -> dict[str, str]:
    return {ending: name for name, kind in reversed(every) for ending in kind.suffixes}


def _every() -> dict[str, type[Modality]]:
    from amodal import modalities  # which imports this file

    return modalities.every()


def _one(value: Raw, same_shape: bool) -> str | None:
    if isinstance(value, Path):
        return file_kind(value)
    if isinstance(value, str):
        named = guess(ending_of(value)) if len(value) < 500 and "\n" not in value else None
        return named or ("sequence" if is_sequence(value) else "text")
    if isinstance(value, bytes):
        return _by_content(value)
    if isinstance(value, Pillow.Image):
        return "image"
    if isinstance(value, dict):
        if "sampling_rate" in value:
            return "audio"
        if np.ndim(value.get("values", 0)) >= 3:
            return "volume" if {"affine", "spacing"} & value.keys() else "raster"
        if np.ndim(value.get("points", 0)) == 2:
            return "points"
        if not any(isinstance(v, (list, tuple, np.ndarray)) for v in value.values()):
            return "table"
        return "events" if _has_events(value) else "series"
    if hasattr(value, "dataobj") and hasattr(value, "affine"):
        return "volume"
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(v, Path) for v in value):
            return file_kind(value[0])
        if value and all(isinstance(v, str) for v in value):
            return "text"
        if value and all(
            isinstance(v, dict) and v and not v.keys() <= {"bytes", "path"} for v in value
        ):
            return "events"
        return (
            "series"
            if not same_shape or any(isinstance(v, (list, tuple, np.ndarray)) for v in value)
            else "table"
        )
    if isinstance(value, np.ndarray):
        return _array(value, same_shape)
    return "table" if np.isscalar(value) else None


def _array(value: np.ndarray, same_shape: bool) -> str | None:
    if value.dtype.kind not in "buif":
        return "series" if value.dtype.names else "table" if value.ndim <= 1 else None
    if value.ndim <= 1:
        return "table" if same_shape else "series"
    if value.ndim == 2:
        short, long = sorted(value.shape)
        return (
            "image"
            if value.dtype == np.uint8 or same_shape and short >= 8 and long <= 2 * short
            else "series"
        )
    if value.ndim == 4 and value.shape[1] < min(value.shape[2:]):
        return "raster"
    return "image" if value.ndim == 3 else None


def _by_content(data: bytes) -> str | None:
    if data[:4] == b"RIFF":
        return "image" if data[8:12] == b"WEBP" else "audio"
    if named := _recognised(data):
        return named
    for name, kind in _every().items():
        if kind.magic and data.startswith(kind.magic):
            return name
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return (
        "sequence" if is_sequence(text.strip()) else "text" if data and "\0" not in text else None
    )


def _has_events(value: dict[str, Any]) -> bool:
    """Whether columns of one length are events: there are times, and text among the rest.

    A series has no text.
    """
    columns = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in value.items()}
    has_time = any(str(name).lower() in TIME_COLUMNS for name in columns)
    rest = [
        v
        for name, v in columns.items()
        if str(name).lower() not in TIME_COLUMNS and isinstance(v, (list, tuple))
    ]
    return has_time and any(
        isinstance(cell, str) and not is_missing(cell) for cells in rest for cell in cells[:20]
    )
