"""Files that share a stem are one record, in a folder or in a tar: how file names become keys and
columns."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers.base import Reader
from amodal.data.remote import Remote, together
from amodal.data.splits import SPELLINGS

VALUES = {".json": "json", ".cls": "cls", ".id": "id"}
"""Endings of files that hold small values rather than data: an object, a class, a number. The
columns are called so."""


@dataclass(frozen=True)
class Where:
    """The files of one column: endings with their dot (".png", ".front.png"), and the folder that
    they lie in, if only there."""

    suffixes: tuple[str, ...]
    within: str = ""

    def key(self, name: str) -> str | None:
        """The record that the file `name` (a path below the root, with /) belongs to; None if it is
        not of this column."""
        if self.within:
            if not name.startswith(self.within + "/"):
                return None
            name = name[len(self.within) + 1 :]
        lower = name.lower()
        if not lower.endswith(self._endings):
            return None
        stem = name[: -next(len(ending) for ending in self._endings if lower.endswith(ending))]
        return stem if stem and not stem.endswith("/") else None

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """The longest first."""
        return tuple(sorted(map(str.lower, self.suffixes), key=len, reverse=True))


def ending_of(name: str) -> str:
    """The ending of a path with /, ".png": as `PurePosixPath.suffix`, in small letters, ten times
    as fast. "" for none."""
    file = name[name.rfind("/") + 1 :]
    dot = file.rfind(".")
    return file[dot:].lower() if 0 < dot < len(file) - 1 else ""


@dataclass(frozen=True)
class Grouped:
    """keys: N; at: column -> (N,) int64, which file, -1 for none; ignored: what belongs to no
    column, and how often."""

    keys: list[str]
    at: dict[str, np.ndarray]
    ignored: Counter


def group(names: Sequence[str], columns: dict[str, Where]) -> Grouped:
    """Files to records. Of several columns that a file would fit, the longest ending has it:
    a.front.png is `.front.png`, not `.png`.

    A second file for the same cell (a.jpg beside a.jpeg) is passed over and counted.
    """
    records: dict[str, dict[str, int]] = defaultdict(dict)
    ignored: Counter = Counter()
    ending_with = _by_ending(columns)
    for i, name in enumerate(names):
        ending = ending_of(name)
        candidates = ending_with.get(ending, ()) if "" not in ending_with else columns.items()
        fits = [
            (key, column) for column, where in candidates if (key := where.key(name)) is not None
        ]
        if not fits:
            ignored["*" + ending] += 1
            continue
        key, column = fits[0] if len(fits) == 1 else min(fits, key=lambda fit: len(fit[0]))
        if column in records[key]:
            ignored[f"second file for {column}"] += 1
        records[key].setdefault(column, i)
    keys = sorted(records)
    at = {
        column: np.array([records[k].get(column, -1) for k in keys], dtype=np.int64)
        for column in columns
    }
    return Grouped([printable(k) for k in keys], at, ignored)


def _by_ending(columns: dict[str, Where]) -> dict[str, list[tuple[str, Where]]]:
    """Ending, as `ending_of` has it -> the columns that a file with it may be of."""
    found: dict[str, list[tuple[str, Where]]] = defaultdict(list)
    for column, where in columns.items():
        for ending in {ending_of(f"x{suffix}") for suffix in where.suffixes}:
            found[ending].append((column, where))
    return found


class Files(Reader):
    """Records made of files. A cell is what `fetch` gives for a file, or the value that a .json,
    .cls or .id file holds.

    Objects in .json files are columns of their own: `json.species` is the `species` of a.json.
    Folder names are columns as well.
    """

    def __init__(
        self,
        names: Sequence[str],
        columns: dict[str, Where] | None,
        kinds: dict[str, str],
        what: str,
    ):
        """names: file paths with /; columns: None to have them proposed from kinds: ending ->
        modality; what: for errors."""
        self.names = names
        endings = {ending_of(name) for name in names}
        kinds = {ending: kind for ending, kind in kinds.items() if ending not in VALUES}
        self.where = dict(columns) if columns is not None else propose(names, kinds)
        values = {
            column: Where((ending,)) for ending, column in VALUES.items() if ending in endings
        }
        grouped = group(names, self.where | values)
        self.keys, self.at, self.ignored = grouped.keys, grouped.at, grouped.ignored
        if not self.keys:
            raise AmodalError(_nothing(what, endings, self.where, kinds))
        self.given = folder_labels(self.keys, SPELLINGS)
        self.values = values
        objects = self._object_names() if "json" in values else []
        self.columns = tuple(
            dict.fromkeys([*self.where, *self.given, *(v for v in values if v != "json"), *objects])
        )

    def fetch(self, file: int) -> Path | Remote | bytes:
        """The content of file number `file`, or where it is."""
        raise NotImplementedError

    def get(self, i: int, column: str):
        if column in self.where:
            at = self.at[column][i]
            return self.fetch(at) if at >= 0 else None
        if column in self.given:
            return self.given[column][i]
        if column in self.values:
            at = self.at[column][i]
            return _value(self.fetch(at)) if at >= 0 else None
        parent, dot, name = self.check(column).partition(".")
        found = self.get(i, parent)
        return found.get(name) if isinstance(found, dict) else None

    def present(self, column: str) -> np.ndarray:
        return self.at[column] >= 0 if column in self.where else super().present(column)

    def check(self, column: str) -> str:
        return (
            column
            if column.startswith("json.") and "json" in self.values
            else super().check(column)
        )

    def _object_names(self) -> list[str]:
        """The names inside the objects of up to 100 .json files, evenly spread."""
        have = np.flatnonzero(self.at["json"] >= 0)
        some = have[np.linspace(0, len(have) - 1, min(100, len(have))).astype(int)]
        objects = together(lambda i: _value(self.fetch(self.at["json"][i])), some, self.far)
        return [
            f"json.{name}"
            for name in dict.fromkeys(n for o in objects if isinstance(o, dict) for n in o)
        ]


def _value(cell: Path | Remote | bytes):
    """What a small value file says; None if it is no text. Raises AmodalError for a file that is
    there no longer."""
    try:
        text = (cell if isinstance(cell, bytes) else cell.read_bytes()).decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError):  # no JSON, or numbers and nesting beyond what Python reads
        return text.strip() or None
    except OSError as error:
        raise AmodalError(
            f"cannot read {cell}: {error.strerror or error}; it was there when the folder was listed"
        ) from error


def _nothing(what: str, endings: set[str], where: dict[str, Where], kinds: dict[str, str]) -> str:
    if not endings:
        return f"no files in {what}. Give a folder whose files share stems (a.jpg a.txt a.wav), a table, or tar shards."
    found = ", ".join("*" + e for e in sorted(endings)[:12])
    wanted = ", ".join(
        "*" + s for s in sorted({s for w in where.values() for s in w.suffixes} or set(kinds))
    )
    return f"no file in {what} has an ending that can be read. There are {found}; expected any of {wanted}."


def propose(names: Sequence[str], kinds: dict[str, str]) -> dict[str, Where]:
    """Columns for files that nobody described. kinds: ending -> modality.

    One column for each modality, called after it, whatever the endings (.jpg, .png) — but
    - `a.front.png b.front.png` make a column `front`, if the middle part is a word that many stems
    share;
    - `photos/1.png texts/1.txt` make the columns `photos` and `texts`, if each top folder has one
    kind and they share
      stems;
    - `a.jpg a.png` make the columns `jpg` and `png`, if most stems that have one have the other.
    """
    known = [name for name in names if ending_of(name) in kinds]
    if folders := _folders_by_kind(known, kinds):
        return folders
    middles = _middles(known)
    columns: dict[str, set[str]] = defaultdict(set)
    stems: dict[str, set[str]] = defaultdict(set)
    for name in known:
        path = PurePosixPath(name)
        ending, middle = path.suffix.lower(), PurePosixPath(path.stem).suffix[1:]
        if middle in middles:
            columns[middle].add(f".{middle}{ending}")
        else:
            columns[kinds[ending]].add(ending)
            stems[ending].add(str(path.with_suffix("")))
    proposal = {}
    for column, endings in columns.items():
        if (
            len(endings) > 1
            and column not in middles
            and _side_by_side([stems[e] for e in endings])
        ):
            proposal |= {ending[1:]: Where((ending,)) for ending in sorted(endings)}
        else:
            proposal[column] = Where(tuple(sorted(endings)))
    return proposal


def _middles(names: Iterable[str]) -> set[str]:
    """The words between stem and ending (`front` in a.front.png) that at least two stems and a
    twentieth of all stems share."""
    stems: dict[str, set[str]] = defaultdict(set)
    everything = set()
    for name in names:
        path = PurePosixPath(PurePosixPath(name).stem)
        everything.add(f"{PurePosixPath(name).parent}/{path.stem}")
        if path.suffix[1:].isidentifier():
            stems[path.suffix[1:]].add(f"{PurePosixPath(name).parent}/{path.stem}")
    return {middle for middle, s in stems.items() if len(s) >= max(2, len(everything) / 20)}


def _folders_by_kind(names: Sequence[str], kinds: dict[str, str]) -> dict[str, Where]:
    """A column for each top folder, if each holds one kind of file, not all the same, and their
    stems overlap; else nothing."""
    stems: dict[str, set[str]] = defaultdict(set)
    endings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        top, slash, rest = name.partition("/")
        if not slash:
            return {}
        stems[top].add(str(PurePosixPath(rest).with_suffix("")))
        endings[top].add(PurePosixPath(rest).suffix.lower())
    held = {top: {kinds[e] for e in found} for top, found in endings.items()}
    mixed = any(len(h) > 1 for h in held.values()) or len(set.union(*held.values(), set())) < 2
    if mixed or not all(
        any(2 * len(a & b) >= min(len(a), len(b)) for t, b in stems.items() if t != s)
        for s, a in stems.items()
    ):
        return {}
    return {top: Where(tuple(sorted(found)), top) for top, found in endings.items()}


def _side_by_side(stems: Sequence[set[str]]) -> bool:
    """Whether files of different endings stand for the same records rather than for different ones."""
    smallest = min(map(len, stems))
    return smallest > 0 and 2 * len(set.intersection(*stems)) >= smallest


def folder_labels(keys: Sequence[str], splits: Iterable[str]) -> dict[str, list[str | None]]:
    """Columns that folder names give: `folder`, the first one; `subfolder`, all of them, where they
    are deeper than one.

    If all first folders are parts of a split (train/cat/1.png), they are the column `split` and the
    next ones are `folder`.
    """
    parents = [list(PurePosixPath(key).parent.parts) for key in keys]
    columns: dict[str, list[str | None]] = {}
    tops = {parts[0].lower() if parts else "" for parts in parents}
    if len(tops) > 1 and tops <= set(splits):
        columns["split"] = [parts[0] for parts in parents]
        parents = [parts[1:] for parts in parents]
    if any(parents):
        columns["folder"] = [parts[0] if parts else None for parts in parents]
    if any(len(parts) > 1 for parts in parents):
        columns["subfolder"] = ["/".join(parts) or None for parts in parents]
    return columns


def printable(name: str) -> str:
    """File names may hold bytes that are no text; keys are text everywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
