"""Guess what a column is from its name and its cells: a field, a cell of the table, a label or a
key.

The guesses are cautious: what may be a target (a class, a place) becomes a label and never an
input. A person who knows better edits dataset.toml.
"""

from __future__ import annotations

import datetime
import decimal
import io
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amodal import modalities
from amodal.core.regular_file import regular
from amodal.data.readers.base import Cell
from amodal.data.remote import AnyPath, Remote
from amodal.data.splits import SPELLINGS
from amodal.modalities.shared.cells import is_date, mostly_numbers

LABEL_WORDS = {
    "label",
    "labels",
    "class",
    "target",
    "category",
    "species",
    "genus",
    "diagnosis",
    "outcome",
    "y",
}
KEY_WORDS = {"key", "id", "ids", "uid", "uuid", "guid", "idx", "index"}
LONGITUDES = {"lon", "lng", "long"}
PLACE_WORDS = {"lat", "latitude", "longitude"} | LONGITUDES
SPLIT_WORDS = {"split", "subset", "partition", "part", "set"}
GROUP_WORDS = {
    "subject",
    "patient",
    "speaker",
    "person",
    "participant",
    "user",
    "site",
    "group",
    "session",
    "block",
    "family",
}
WHOLE = {"y", "set", "part", "block", "index", "group"}
"""Those of all these words that are parts of other names too (`acc_y`, `blood_group`). They count
only if they are the whole name."""
IDS = {"id", "ids"}
"""Beside one of them a word still counts as the whole name: `group_id`."""
FILES = "files"
"""The reason for a field whose values are files."""
NUMPY = {".npy", ".npz"}
REAL = (numbers.Real, decimal.Decimal)
"""Numbers, unlike dates and complex numbers."""
COMPLEX = (complex, np.complexfloating)
IN_TIME = (datetime.date, datetime.time, datetime.timedelta, np.timedelta64)
"""Dates, times of a day and durations: numbers, in seconds."""
UNREAD = "no modality reads"
"""How the reason begins for a column of what no modality reads."""
LOOKED_INTO = 50
"""Files of a column whose headers are read, where more than one modality reads their ending."""
DIGITS = r"(\d+|\d{1,3}([.,']\d{3})+)"
AMOUNT = re.compile(rf"[+-]?[$€£¥]?[+-]?{DIGITS}([.,]\d+[%$€£¥]?|[%$€£¥])|[+-]?[$€£¥]{DIGITS}")
"""Text of a quantity: 12%, €1.250, 1.250,00. It is different in every record by chance, and names
none."""
MAX_CLASS_NAME = 64
"""Characters of a class name or an id."""
MAX_CLASSES = 100
"""Different values of a column that becomes a label although its name does not say so, where the
values have more than one word."""


@dataclass(frozen=True)
class ColumnGuess:
    """What a column is taken for.

    Attributes:
        role: "field", "cell" (of the one table), "label", "key", "split" or "out" (left out).
        kind: the modality of a field, or the kind of a label.
        reason: for the report.
        unit: of a label that is a number.
    """

    role: str
    kind: str = ""
    reason: str = ""
    unit: str = ""


def suffix_modalities() -> dict[str, str]:
    """Ending -> modality, for every ending that a modality reads."""
    return modalities.suffixes()


def by_content() -> frozenset[str]:
    """Endings of files that are looked into, since the ending does not say the modality."""
    return frozenset(NUMPY) | modalities.header_suffixes()


def guess_column(
    name: str,
    samples: Sequence[Cell],
    all_cells: Callable[[], list[Cell]],
    base: AnyPath | None = None,
    numeric: Collection[str] = (),
) -> ColumnGuess:
    """Guess what a column is.

    Args:
        name: of the column.
        samples: some of its cells, none missing.
        all_cells: returns all cells; called only where they are small.
        base: for relative paths.
        numeric: the columns of the data that hold single numbers, as `number_names` has them.
    """
    if not samples:
        return ColumnGuess("out", reason="every cell is empty")
    sorts = [_sort(cell) for cell in samples]
    # Of mixed cells the most frequent sort. The others are unreadable, and end in quarantine.
    sort = max(dict.fromkeys(sorts), key=sorts.count)
    samples = [cell for cell, s in zip(samples, sorts) if s == sort]
    if sort == "path":
        return of_files(samples)
    if sort == "value":
        return of_values(samples)
    if sort == "words" and names_files(samples, base):
        if any("://" in s or ":/" in s for s in samples):
            return ColumnGuess("out", reason="web addresses: fetch the files first")
        return of_files([(base or Path()) / s for s in samples])
    if sort == "words" and not is_key_name(name) and (folders := named_folders(samples, base)):
        return of_files(folders)
    if sort == "words" and not mostly_numbers(samples):
        cells = all_cells()
        filled = [str(c) for c in cells if c != "" and _sort(c) in ("words", "number")]
        return _text(name, filled, len(filled) == len(cells))
    if sort == "words":
        return _date(name, [c for c in all_cells() if is_date(c)])
    return _number(name, [c if _sort(c) == "number" else None for c in all_cells()], numeric)


def number_names(columns: Iterable[str]) -> frozenset[str]:
    """Names of columns as they are compared: lower case, with and without "json."."""
    lower = [column.lower() for column in columns]
    return frozenset(lower) | {name.removeprefix("json.") for name in lower}


def is_number(cell: Cell) -> bool:
    """Whether a cell is one number."""
    if type(cell) is float:  # nearly all cells of most tables
        return True
    if isinstance(cell, COMPLEX):
        return False
    return isinstance(cell, (bool, np.bool_, numbers.Number, decimal.Decimal, *IN_TIME))


def _sort(cell: Cell) -> str:
    if type(cell) is float:  # nearly all cells of most tables
        return "number"
    if isinstance(cell, (Path, Remote)):
        return "path"
    return "words" if isinstance(cell, str) else "number" if is_number(cell) else "value"


def of_files(paths: Sequence[AnyPath]) -> ColumnGuess:
    """Guess a column of files by their endings, numpy files by their content."""
    endings = [modalities.ending_of(path.name) for path in paths]
    if all(ending in NUMPY for ending in endings):
        arrays = [array for path in paths[:20] if (array := _load(path)) is not None]
        return (
            of_values(arrays)
            if arrays
            else ColumnGuess("field", suffix_modalities()[endings[0]], FILES)
        )
    kinds = [kind for path in paths[:LOOKED_INTO] if (kind := modalities.file_kind(path))]
    kinds += [k for e in endings[LOOKED_INTO:] if (k := suffix_modalities().get(e))]
    if not kinds:
        return ColumnGuess("out", reason=f"no modality reads *{endings[0]}")
    return ColumnGuess("field", max(set(kinds), key=kinds.count), FILES)


def of_values(values: Sequence[Cell]) -> ColumnGuess:
    """Guess a column of bytes, arrays, lists or objects."""
    if any(isinstance(value, COMPLEX) for value in values):
        return ColumnGuess("out", reason=f"{UNREAD} complex numbers")
    kind, reason = modalities.guess_column(values)
    if kind is None:
        return ColumnGuess("out", reason=reason)
    return ColumnGuess("field", kind, reason)


def _load(path: AnyPath) -> np.ndarray | None:
    try:
        loaded = np.load(
            io.BytesIO(path.read_bytes()) if isinstance(path, Remote) else regular(path),
            allow_pickle=False,
        )
        return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except Exception:  # a damaged file is for the quarantine to report
        return None


def names_files(samples: Sequence[str], base: AnyPath | None) -> bool:
    """Whether text cells name files.

    They do if nearly all end like files that can be read, and either some of the files exist or no
    cell has a space.

    Args:
        samples: some cells.
        base: the folder that the names are relative to.
    """
    named = [
        s
        for s in samples
        if len(s) < 256 and "\n" not in s and modalities.ending_of(s) in suffix_modalities()
    ]
    if not named or len(named) < 0.8 * len(samples):
        return False
    return (
        any((base / s).is_file() for s in named[:50])
        if base and any(" " in s for s in named)
        else True
    )


def named_folders(samples: Sequence[str], base: AnyPath | None) -> list[AnyPath]:
    """The folders on this machine that text cells name, each of which is one value; [] where most
    cells name none.

    Args:
        samples: some cells.
        base: the folder that the names are relative to.
    """
    if isinstance(base, Remote):
        return []
    short = [(base or Path()) / s for s in samples[:LOOKED_INTO] if 0 < len(s) < 256]
    # which a text that is no path does not make fail
    folders = [path for path in short if os.path.isdir(path)]
    if len(folders) < 0.8 * len(samples[:LOOKED_INTO]):
        return []
    return [*folders] if any(modalities.file_kind(path) for path in folders) else []


UNCLEAR_DATE = re.compile(r"\d{1,2}/\d{1,2}/\d{4}( \d{1,2}:\d\d(:\d\d)?( ?[AaPp][Mm])?)?")


def _text(name: str, cells: Sequence[str], complete: bool) -> ColumnGuess:
    """cells: those that are not missing; complete: whether none is."""
    distinct, longest = set(cells), max(map(len, cells))
    if _named(name, SPLIT_WORDS) and {c.lower() for c in distinct} <= set(SPELLINGS):
        return ColumnGuess("split", reason="the parts of a split")
    if all(map(UNCLEAR_DATE.fullmatch, cells)):
        return ColumnGuess(
            "out", reason=f"day or month first? Write {cells[0][:10]!r} as 2024-01-31"
        )
    if (
        complete
        and len(distinct) == len(cells) > 1
        and longest <= MAX_CLASS_NAME
        and not any(c.split()[1:] for c in cells)
    ):
        if (
            _named(name, KEY_WORDS)
            or sum(bool(re.search(r"\d", c)) for c in cells) > len(cells) / 2
        ) and not all(map(AMOUNT.fullmatch, cells)):
            return ColumnGuess("key", reason="different in every record")
    if len(distinct) == 1 and len(cells) > 1:
        return ColumnGuess("out", reason=f"always {cells[0][:40]!r}")
    words = any(c.split()[1:] for c in cells)
    few = longest <= MAX_CLASS_NAME and len(distinct) <= (
        min(MAX_CLASSES, len(cells) // 2) if words else len(cells) // 2
    )
    if few or _named(name, LABEL_WORDS | GROUP_WORDS):
        return ColumnGuess("label", "category", f"{len(distinct)} different values")
    if longest <= MAX_CLASS_NAME and _named(name, KEY_WORDS):
        if complete and len(distinct) == len(cells):  # with spaces in it
            return ColumnGuess("key", reason="different in every record")
        return ColumnGuess("out", reason="an id that is not unique")
    return ColumnGuess("field", *modalities.guess_texts(cells))


def _date(name: str, cells: Sequence[str]) -> ColumnGuess:
    """Days and times as text, treated as the numbers that a Parquet file has for them."""
    distinct = set(cells)
    if _named(name, GROUP_WORDS) and len(distinct) <= len(cells) // 2:
        return ColumnGuess("label", "category", f"{len(distinct)} different values")
    if len(distinct) == 1 and len(cells) > 1:
        return ColumnGuess("out", reason=f"always {cells[0]}")
    if _named(name, LABEL_WORDS):
        return ColumnGuess("label", "number", f"{len(distinct)} different times", unit="seconds")
    return ColumnGuess("cell", "", "dates, as seconds")


def _number(name: str, cells: Sequence[Cell], numeric: Collection[str]) -> ColumnGuess:
    filled = [c for c in cells if c is not None]
    distinct = set(filled)
    whole = all(isinstance(c, REAL) and float(c).is_integer() for c in distinct)
    if _named(name, GROUP_WORDS) and whole and len(distinct) <= len(filled) // 2:
        return ColumnGuess("label", "category", f"{len(distinct)} different values")
    if _named(name, LABEL_WORDS) and not _is_axis(name, numeric):
        return ColumnGuess(
            "label",
            "category" if whole and len(distinct) <= MAX_CLASSES else "number",
            f"{len(distinct)} different values",
        )
    if _is_place(name, numeric):
        return ColumnGuess(
            "label", "number", "where the record is from, not what was recorded", unit="degree"
        )
    unique = len(filled) == len(cells) == len(distinct) > 1
    counting = (
        len(cells) >= 20
        and whole
        and (
            list(cells) == list(range(len(cells))) or list(cells) == list(range(1, len(cells) + 1))
        )
    )
    if whole and unique and (_named(name, KEY_WORDS) or counting):
        return ColumnGuess("key", reason="different in every record")
    if len(distinct) == 1 and len(cells) > 1:
        return ColumnGuess("out", reason=f"always {filled[0]}")
    if whole and len(filled) == len(distinct) and _named(name, KEY_WORDS):
        return ColumnGuess("out", reason="an id that some records lack")
    return ColumnGuess("cell", "", "numbers")


def is_key_name(name: str) -> bool:
    """Whether a column by that name should name the records."""
    return _named(name, KEY_WORDS)


def is_group_name(name: str) -> bool:
    """Whether a column by that name says which records belong together: a patient, a site."""
    return _named(name, GROUP_WORDS)


def place_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The names of a latitude and a longitude that belong together: lat and lon, or center_lat
    and center_lon; None where there are none.

    Args:
        names: of columns that hold numbers.
    """
    names = list(names)
    lower = {name.lower(): name for name in names}
    for name in names:
        for word, partners in (("latitude", ["longitude"]), ("lat", sorted(LONGITUDES))):
            for partner in partners:
                other = re.sub(rf"(?<![a-z]){word}(?![a-z])", partner, name.lower())
                if other != name.lower() and other in lower:
                    return name, lower[other]
    return None


def _named(name: str, words: set[str]) -> bool:
    """Whether one of the words in a column's name is one of `words`: `Class Label`, `speciesName`,
    `subject_id`."""
    parts = [part.lower() for part in _parts(name)]
    alone = [part for part in parts if part not in IDS] or parts
    return any(part in words and (part not in WHOLE or len(alone) == 1) for part in parts)


def _parts(name: str) -> list[str]:
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.removeprefix("json."))


def _is_axis(name: str, numeric: Collection[str]) -> bool:
    """Whether a `y` is no target but a coordinate, since there is an `x` or a `z`."""
    return name.removeprefix("json.").lower() == "y" and ("x" in numeric or "z" in numeric)


def _is_place(name: str, numeric: Collection[str]) -> bool:
    """Whether a column is a latitude or a longitude. `lat` and `long` are parts of other names too
    (`hair_long`): they count only if both exist (`start_lat`, `start_long`)."""
    parts = _parts(name)
    for word in map(str.lower, parts):
        if word in ("latitude", "longitude") or (word in PLACE_WORDS and len(parts) == 1):
            return True
        partners = LONGITUDES if word == "lat" else {"lat"} if word in LONGITUDES else set()
        if any(
            re.sub(rf"(?<![a-z]){word}(?![a-z])", other, name.lower()) in numeric
            for other in partners
        ):
            return True
    return False
