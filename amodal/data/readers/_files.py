"""Records made of files, in a folder or in a tar. Files that share a stem are one record: this is
how file names become keys and columns."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers.base import Cell, Reader
from amodal.data.remote import AnyPath, parallel_map
from amodal.data.splits import SPELLINGS
from amodal.modalities import ending_of, folder_suffixes

ARCHIVES = {".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
SHEETS = {".xls", ".xlsx", ".xlsm", ".ods"}
WHOLE = "scan"
"""The key of the one value that all files of the folder itself are."""
VALUES = {".json": "json", ".cls": "cls", ".id": "id"}
"""Ending -> column of files that hold small values rather than data: an object, a class, a
number."""


@dataclass(frozen=True)
class FilePattern:
    """The files of one column.

    Attributes:
        suffixes: their endings with the dot: ".png", ".front.png".
        within: the folder that they lie in, "" for any.
    """

    suffixes: tuple[str, ...]
    within: str = ""

    def key(self, name: str) -> str | None:
        """The record that a file belongs to, None if it is not of this column.

        Args:
            name: the path of the file below the root, with /.
        """
        if self.within:
            if not name.startswith(self.within + "/"):
                return None
            name = name[len(self.within) + 1 :]
        lower = name.lower()
        if not lower.endswith(self._endings):
            return None
        stem = name[: -next(len(ending) for ending in self._endings if lower.endswith(ending))]
        if self._in_folders and ending_of(lower) in self._in_folders:
            return name.rpartition("/")[0] or WHOLE
        return stem if stem and not stem.endswith("/") else None

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """The longest first."""
        return tuple(sorted(map(str.lower, self.suffixes), key=len, reverse=True))

    @cached_property
    def _in_folders(self) -> frozenset[str]:
        """Endings of its files of which all in one folder are one value."""
        return folder_suffixes() & {ending_of(f"x{suffix}") for suffix in self.suffixes}


@dataclass(frozen=True)
class GroupedFiles:
    """Files by record and column.

    Attributes:
        keys: N names of records.
        file_index: column -> (N,) int64, the number of the file, -1 for none.
        ignored: what belongs to no column, and how often.
        parts: number of a file -> those that are one value with it, itself among them.
    """

    keys: list[str]
    file_index: dict[str, np.ndarray]
    ignored: Counter[str]
    parts: dict[int, list[int]]


def group(names: Sequence[str], columns: Mapping[str, FilePattern]) -> GroupedFiles:
    """Group files into records.

    A file that fits more than one column belongs to the one with the longest ending: a.front.png to
    `.front.png`, not to `.png`. A second file for the same cell (a.jpg beside a.jpeg) is ignored
    and counted.

    Args:
        names: paths of files with /.
        columns: name -> its files.
    """
    records: dict[str, dict[str, int]] = defaultdict(dict)
    ignored: Counter[str] = Counter()
    parts: dict[int, list[int]] = {}
    ending_with, in_folders = _by_ending(columns), folder_suffixes()
    for i, name in enumerate(names):
        ending = ending_of(name)
        candidates = ending_with.get(ending, []) if "" not in ending_with else columns.items()
        fits = [
            (key, column)
            for column, pattern in candidates
            if (key := pattern.key(name)) is not None
        ]
        if not fits:
            ignored["*" + ending] += 1
            continue
        key, column = fits[0] if len(fits) == 1 else min(fits, key=lambda fit: len(fit[0]))
        if column in records[key] and not (ending in in_folders and records[key][column] in parts):
            ignored[f"second file for {column}"] += 1
        first = records[key].setdefault(column, i)
        if ending in in_folders and (first == i or first in parts):
            parts.setdefault(first, []).append(i)
    keys = sorted(records)
    file_index = {
        column: np.array([records[k].get(column, -1) for k in keys], dtype=np.int64)
        for column in columns
    }
    return GroupedFiles([printable(k) for k in keys], file_index, ignored, parts)


def _by_ending(columns: Mapping[str, FilePattern]) -> dict[str, list[tuple[str, FilePattern]]]:
    """Ending, as `ending_of` has it -> the columns that a file with it may be of."""
    by_ending: dict[str, list[tuple[str, FilePattern]]] = defaultdict(list)
    for column, pattern in columns.items():
        for ending in {ending_of(f"x{suffix}") for suffix in pattern.suffixes}:
            by_ending[ending].append((column, pattern))
    return by_ending


class Files(Reader):
    """Records made of files.

    A cell is what `fetch` returns for a file, or the value in a .json, .cls or .id file. The values
    of an object in a .json file are columns of their own: `json.species` is the `species` of
    a.json. Names of folders are columns as well.

    Args:
        names: paths of the files, with /.
        columns: name -> its files; None to guess them from `kinds`.
        kinds: ending -> modality.
        what: the data, for errors.

    Attributes:
        patterns: column of files -> its files.
        file_index: column -> (N,) int64, the number of the file, -1 for none.
        parts: number of a file -> the files that are one value with it.
        folder_columns: column -> N names of folders.
        values: column of small values -> its files.

    Raises:
        AmodalError: no file has an ending that can be read.
    """

    def __init__(
        self,
        names: Sequence[str],
        columns: Mapping[str, FilePattern] | None,
        kinds: Mapping[str, str],
        what: str,
    ) -> None:
        self.names = names
        endings = {ending_of(name) for name in names}
        kinds = {ending: kind for ending, kind in kinds.items() if ending not in VALUES}
        self.patterns = dict(columns) if columns is not None else propose(names, kinds)
        values = {
            column: FilePattern((ending,)) for ending, column in VALUES.items() if ending in endings
        }
        grouped = group(names, self.patterns | values)
        self.keys, self.ignored = grouped.keys, grouped.ignored
        self.file_index, self.parts = grouped.file_index, grouped.parts
        if not self.keys:
            raise AmodalError(_no_file_message(what, endings, self.patterns, kinds))
        self.folder_columns = folder_labels(self.keys, SPELLINGS)
        self.values = values
        objects = self._object_names() if "json" in values else []
        plain = [column for column in values if column != "json"]
        self.columns = tuple(
            dict.fromkeys([*self.patterns, *self.folder_columns, *plain, *objects])
        )

    def fetch(self, file: int) -> AnyPath | bytes:
        """The content of file number `file`, or where it is."""
        raise NotImplementedError

    def get(self, i: int, column: str) -> Cell:
        if column in self.patterns:
            file = int(self.file_index[column][i])
            if file in self.parts:
                return [self.fetch(part) for part in self.parts[file]]
            return self.fetch(file) if file >= 0 else None
        if column in self.folder_columns:
            return self.folder_columns[column][i]
        if column in self.values:
            file = int(self.file_index[column][i])
            return _value(self.fetch(file)) if file >= 0 else None
        parent, _, name = self.check(column).partition(".")
        value = self.get(i, parent)
        return value.get(name) if isinstance(value, dict) else None

    def present(self, column: str) -> np.ndarray:
        if column in self.patterns:
            return np.asarray(self.file_index[column] >= 0)
        return super().present(column)

    def check(self, column: str) -> str:
        return (
            column
            if column.startswith("json.") and "json" in self.values
            else super().check(column)
        )

    def _object_names(self) -> list[str]:
        """The names inside the objects of up to 100 .json files, evenly spread."""
        files = self.file_index["json"]
        files = files[files >= 0]
        some = files[np.linspace(0, len(files) - 1, min(100, len(files))).astype(int)]
        objects = parallel_map(lambda f: _value(self.fetch(f)), some.tolist(), self.is_remote)
        names = dict.fromkeys(name for o in objects if isinstance(o, dict) for name in o)
        return [f"json.{name}" for name in names]


def _value(cell: AnyPath | bytes) -> Cell:
    """The value in a small file, None if it is no text. Raises AmodalError for a file that no
    longer exists."""
    try:
        text = (cell if isinstance(cell, bytes) else cell.read_bytes()).decode("utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError):  # no JSON, or numbers and nesting beyond what Python reads
        return text.strip() or None
    except OSError as error:
        raise AmodalError(
            f"cannot read {cell!s}: {error.strerror or error}; "
            "it was there when the folder was listed"
        ) from error


def _no_file_message(
    what: str, endings: set[str], patterns: Mapping[str, FilePattern], kinds: Mapping[str, str]
) -> str:
    if not endings:
        return (
            f"no files in {what}. Give a folder whose files share stems (a.jpg a.txt a.wav), "
            "a table, or tar shards."
        )
    present = ", ".join("*" + ending for ending in sorted(endings)[:12])
    suffixes = {suffix for pattern in patterns.values() for suffix in pattern.suffixes}
    expected = ", ".join("*" + suffix for suffix in sorted(suffixes or set(kinds)))
    return (
        f"no file in {what} has an ending that can be read. There are {present}; "
        f"expected any of {expected}{remedy(*sorted(endings))}."
    )


def remedy(*endings: str) -> str:
    """What to do with files that nothing here reads, as the end of a sentence."""
    for ending in endings:
        if ending in ARCHIVES:
            return f"; unpack *{ending} into a folder, and give that"
        if ending in SHEETS:
            return (
                f"; save the sheet of *{ending} as CSV (UTF-8), or in Python give a data frame, "
                "such as that of pandas.read_excel"
            )
    return ""


def propose(names: Sequence[str], kinds: Mapping[str, str]) -> dict[str, FilePattern]:
    """Guess the columns of files that no dataset.toml describes.

    There is one column for each modality, named after it, whatever the endings (.jpg, .png), with
    three exceptions:

    - `a.front.png b.front.png` make a column `front`, if many stems share the middle part;
    - `photos/1.png texts/1.txt` make the columns `photos` and `texts`, if each top folder has one
      kind of file and they share stems;
    - `a.jpg a.png` make the columns `jpg` and `png`, if most stems that have one have the other and
      none of them is rare.

    Args:
        names: paths of files with /.
        kinds: ending -> modality.
    """
    known = [name for name in names if ending_of(name) in kinds]
    if folders := _folders_by_kind(known, kinds):
        return folders
    middles = _middles(known)
    columns: dict[str, set[str]] = defaultdict(set)
    stems: dict[str, set[str]] = defaultdict(set)
    for name in known:
        ending = ending_of(name)
        stem = name[: -len(ending)]
        middle = PurePosixPath(stem).suffix[1:]
        if middle in middles:
            columns[middle].add(f".{middle}{ending}")
        else:
            columns[kinds[ending]].add(ending)
            stems[ending].add(stem)
    proposal: dict[str, FilePattern] = {}
    for column, endings in columns.items():
        if (
            len(endings) > 1
            and column not in middles
            and _side_by_side([stems[e] for e in endings])
        ):
            proposal |= {ending[1:]: FilePattern((ending,)) for ending in sorted(endings)}
        else:
            proposal[column] = FilePattern(tuple(sorted(endings)))
    return proposal


def _middles(names: Iterable[str]) -> set[str]:
    """The words between stem and ending (`front` in a.front.png) of at least two stems and a
    twentieth of all stems."""
    stems: dict[str, set[str]] = defaultdict(set)
    everything = set()
    for name in names:
        path = PurePosixPath(PurePosixPath(name).name.removesuffix(_as_written(name)))
        everything.add(f"{PurePosixPath(name).parent}/{path.stem}")
        if path.suffix[1:].isidentifier():
            stems[path.suffix[1:]].add(f"{PurePosixPath(name).parent}/{path.stem}")
    return {middle for middle, s in stems.items() if len(s) >= max(2, len(everything) / 20)}


def _folders_by_kind(names: Sequence[str], kinds: Mapping[str, str]) -> dict[str, FilePattern]:
    """A column for each top folder, if each holds one kind of file, not all of them the same, and
    their stems overlap; else nothing."""
    stems: dict[str, set[str]] = defaultdict(set)
    endings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        top, slash, rest = name.partition("/")
        if not slash:
            return {}
        ending = ending_of(rest)
        alike = ending in folder_suffixes()
        stems[top].add(rest.rpartition("/")[0] if alike else rest[: -len(ending)])
        endings[top].add(ending)
    in_folder = {top: {kinds[e] for e in of_top} for top, of_top in endings.items()}
    mixed = any(len(k) > 1 for k in in_folder.values())
    mixed = mixed or len(set[str]().union(*in_folder.values())) < 2
    if mixed or not all(
        any(2 * len(a & b) >= min(len(a), len(b)) for t, b in stems.items() if t != s)
        for s, a in stems.items()
    ):
        return {}
    return {top: FilePattern(tuple(sorted(of_top)), top) for top, of_top in endings.items()}


def _as_written(name: str) -> str:
    """The ending of a name with its own capitals."""
    return name[len(name) - len(ending_of(name)) :]


RARE = 10
"""In how many records two endings come together once, so that it is no accident: one .jpg beside a
hundred .png is a second file for its record, and no field of its own."""


def _side_by_side(stems: Sequence[set[str]]) -> bool:
    """Whether files of different endings belong to the same records."""
    smallest, largest = min(map(len, stems)), max(map(len, stems))
    together = len(set.intersection(*stems))
    return smallest > 0 and 2 * together >= smallest and RARE * together >= largest


def folder_labels(keys: Sequence[str], splits: Iterable[str]) -> dict[str, list[str | None]]:
    """Columns from names of folders: `folder`, the first one, and `subfolder`, the whole path where
    there is more than one level.

    If all first folders are parts of a split (train/cat/1.png), they are the column `split`, and
    the next ones are `folder`.

    Args:
        keys: N keys of records, with /.
        splits: names of parts of a split, in small letters.
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
    """A file name as text: it may have bytes that are none."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
