"""What a column is, from its name and its cells: a field of which modality, a cell of the table, a
label, a key, or none of these.

Only guesses, and cautious ones: what may be an answer (a class, a place) becomes a label and never
an input. A person who knows better edits dataset.toml.
"""

from __future__ import annotations

import datetime
import decimal
import io
import numbers
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amodal import modalities
from amodal.data.remote import Remote
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
"""Of all these words those that are parts of other names as well (`acc_y`, `blood_group`) and mean
this on their own alone."""
IDS = {"id", "ids"}
"""Beside one of them a word is on its own: `group_id`."""
FILES = "files"
"""The reason for a field whose values are files."""
NUMPY = {".npy", ".npz"}
SHORT = 64
"""Characters of a class name or an id at most."""
CLASSES = 100
"""Different values of a column of several words at most that is offered as a label without being
called one."""


@dataclass(frozen=True)
class Verdict:
    """role: "field", "cell" (of the one table), "label", "key", "split" or "out"; kind: modality or
    kind of label; why: for the report; unit: of a number label."""

    role: str
    kind: str = ""
    why: str = ""
    unit: str = ""


def kinds() -> dict[str, str]:
    """Ending -> modality, for every ending that some modality reads."""
    return modalities.suffixes()


def column(
    name: str,
    samples: Sequence,
    everything: Callable[[], list],
    base: Path | Remote | None = None,
    beside: Collection[str] = (),
) -> Verdict:
    """samples: some cells, none missing; everything: all cells, asked for only where they are
    small; base: for relative paths; beside: the columns that hold single numbers."""
    if not samples:
        return Verdict("out", why="every cell is empty")
    sorts = [_sort(cell) for cell in samples]
    sort = max(
        dict.fromkeys(sorts), key=sorts.count
    )  # of mixed cells the most; the others are for the quarantine
    samples = [cell for cell, s in zip(samples, sorts) if s == sort]
    if sort == "path":
        return of_files(samples)
    if sort == "value":
        return of_values(samples)
    if sort == "words" and names_files(samples, base):
        if any("://" in s or ":/" in s for s in samples):
            return Verdict("out", why="web addresses: fetch the files first")
        return of_files([(base or Path()) / s for s in samples])
    if sort == "words" and not mostly_numbers(samples):
        cells = everything()
        filled = [str(c) for c in cells if c != "" and _sort(c) in ("words", "number")]
        return _text(name, filled, len(filled) == len(cells))
    if sort == "words":
        return _date(name, [c for c in everything() if is_date(c)])
    return _number(name, [c if _sort(c) == "number" else None for c in everything()], beside)


def single(cell) -> bool:
    """Whether a cell is one number."""
    return isinstance(cell, (bool, np.bool_, numbers.Number, decimal.Decimal, datetime.date))


def _sort(cell) -> str:
    if isinstance(cell, (Path, Remote)):
        return "path"
    return "words" if isinstance(cell, str) else "number" if single(cell) else "value"


def of_files(paths: Sequence[Path | Remote]) -> Verdict:
    """By endings; numpy files by what is in them."""
    if all(path.suffix.lower() in NUMPY for path in paths):
        arrays = [array for path in paths[:20] if (array := _load(path)) is not None]
        return (
            of_values(arrays)
            if arrays
            else Verdict("field", kinds()[paths[0].suffix.lower()], FILES)
        )
    found = [kind for path in paths if (kind := kinds().get(path.suffix.lower()))]
    if not found:
        return Verdict("out", why=f"no modality reads *{paths[0].suffix}")
    return Verdict("field", max(set(found), key=found.count), FILES)


def of_values(values: Sequence) -> Verdict:
    """Bytes, arrays, lists, objects."""
    kind, why = modalities.guess_column(values)
    return Verdict("out", why=why) if kind is None else Verdict("field", kind, why)


def _load(path: Path | Remote) -> np.ndarray | None:
    try:
        loaded = np.load(
            io.BytesIO(path.read_bytes()) if isinstance(path, Remote) else path, allow_pickle=False
        )
        return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except Exception:  # a damaged file is for the quarantine to report
        return None


def names_files(samples: Sequence[str], base: Path | Remote | None) -> bool:
    """Whether text cells name files: nearly all end like files that can be read, and either some
    are there or none has a space."""
    named = [
        s for s in samples if len(s) < 256 and "\n" not in s and Path(s).suffix.lower() in kinds()
    ]
    if not named or len(named) < 0.8 * len(samples):
        return False
    return (
        any((base / s).is_file() for s in named[:50])
        if base and any(" " in s for s in named)
        else True
    )


def _text(name: str, cells: Sequence[str], complete: bool) -> Verdict:
    """cells: those that are there; complete: whether all are."""
    distinct, longest = set(cells), max(map(len, cells))
    if _named(name, SPLIT_WORDS) and {c.lower() for c in distinct} <= set(SPELLINGS):
        return Verdict("split", why="the parts of a split")
    if (
        complete
        and len(distinct) == len(cells) > 1
        and longest <= SHORT
        and not any(c.split()[1:] for c in cells)
    ):
        if (
            _named(name, KEY_WORDS)
            or sum(bool(re.search(r"\d", c)) for c in cells) > len(cells) / 2
        ):
            return Verdict("key", why="different in every record")
    if len(distinct) == 1 and len(cells) > 1:
        return Verdict("out", why=f"always {cells[0][:40]!r}")
    words = any(c.split()[1:] for c in cells)
    few = longest <= SHORT and len(distinct) <= (
        min(CLASSES, len(cells) // 2) if words else len(cells) // 2
    )
    if few or _named(name, LABEL_WORDS | GROUP_WORDS):
        return Verdict("label", "category", f"{len(distinct)} different values")
    if longest <= SHORT and _named(name, KEY_WORDS):
        return Verdict("out", why="an id that is not unique")
    return Verdict("field", *modalities.guess_texts(cells))


def _date(name: str, cells: Sequence[str]) -> Verdict:
    """Days and times as text, as if they were the numbers that a Parquet file makes of them."""
    distinct = set(cells)
    if _named(name, GROUP_WORDS) and len(distinct) <= len(cells) // 2:
        return Verdict("label", "category", f"{len(distinct)} different values")
    if len(distinct) == 1 and len(cells) > 1:
        return Verdict("out", why=f"always {cells[0]}")
    if _named(name, LABEL_WORDS):
        return Verdict("label", "number", f"{len(distinct)} different times", unit="seconds")
    return Verdict("cell", _cell_kind(), "dates, as seconds")


def _number(name: str, cells: Sequence, beside: Collection[str] = ()) -> Verdict:
    filled = [c for c in cells if c is not None]
    distinct = set(filled)
    whole = all(isinstance(c, numbers.Number) and float(c).is_integer() for c in distinct)
    if _named(name, GROUP_WORDS) and whole and len(distinct) <= len(filled) // 2:
        return Verdict("label", "category", f"{len(distinct)} different values")
    if _named(name, LABEL_WORDS) and not _is_axis(name, beside):
        return Verdict(
            "label",
            "category" if whole and len(distinct) <= CLASSES else "number",
            f"{len(distinct)} different values",
        )
    if _is_place(name, beside):
        return Verdict(
            "label", "number", "where the record is from, not what was sensed", unit="degree"
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
        return Verdict("key", why="different in every record")
    if len(distinct) == 1 and len(cells) > 1:
        return Verdict("out", why=f"always {filled[0]}")
    if whole and len(filled) == len(distinct) and _named(name, KEY_WORDS):
        return Verdict("out", why="an id that some records lack")
    return Verdict("cell", _cell_kind(), "numbers")


def _cell_kind() -> str:
    return modalities.name_of(modalities.of_columns(["value"]))


def is_key_name(name: str) -> bool:
    return _named(name, KEY_WORDS)


def is_group_name(name: str) -> bool:
    """Whether a column by that name says which records belong together: a patient, a site."""
    return _named(name, GROUP_WORDS)


def _named(name: str, words: set[str]) -> bool:
    """Whether one of the words in a column's name is one of `words`: `Class Label`, `speciesName`,
    `subject_id`."""
    parts = [part.lower() for part in _parts(name)]
    alone = [part for part in parts if part not in IDS] or parts
    return any(part in words and (part not in WHOLE or len(alone) == 1) for part in parts)


def _parts(name: str) -> list[str]:
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.removeprefix("json."))


def _is_axis(name: str, beside: Collection[str]) -> bool:
    """Whether a `y` is not an answer but stands beside an `x` or a `z`."""
    others = {other.removeprefix("json.").lower() for other in beside}
    return name.removeprefix("json.").lower() == "y" and bool(others & {"x", "z"})


def _is_place(name: str, beside: Collection[str]) -> bool:
    """Whether a column is a latitude or a longitude. `lat` and `long` are parts of other names
    (`hair_long`): there they count only beside the other one (`start_lat`, `start_long`)."""
    parts, others = _parts(name), {other.lower() for other in beside}
    for word in map(str.lower, parts):
        if word in ("latitude", "longitude") or (word in PLACE_WORDS and len(parts) == 1):
            return True
        partners = LONGITUDES if word == "lat" else {"lat"} if word in LONGITUDES else set()
        if any(
            re.sub(rf"(?<![a-z]){word}(?![a-z])", other, name.lower()) in others
            for other in partners
        ):
            return True
    return False
