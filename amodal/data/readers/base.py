"""What a reader is: records by number, cells by column name. It knows nothing of modalities."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data.remote import AnyPath, Remote, UnreadableObject, parallel_map
from amodal.data.store import Stat

SMALL = 64 * 2**20
"""Files of fewer bytes together (and at most 2,000 of them) are identified by content, larger ones
by size and time."""

Cell = Any
"""What a source holds in a column of a record: a value of any type, bytes, or the path of a file.
None where there is nothing."""


class Lazy:
    """An object whose `cached_property` values (open files, mapped tables) are not pickled. They
    are made anew where the object is unpickled."""

    def __getstate__(self) -> dict[str, Any]:
        lazy = {
            name
            for kind in type(self).__mro__
            for name, value in vars(kind).items()
            if isinstance(value, cached_property)
        }
        return {name: value for name, value in self.__dict__.items() if name not in lazy}


class Reader(Lazy):
    """Reads the cells of records. It can be pickled, for worker processes of any start method.

    Attributes:
        keys: N names of records, each different.
        columns: what a record may have.
        base: where relative paths in cells start.
        ignored: what was passed over, and how often: {"*.db": 3}.
        reader: the one whose cells this one changes, for a reader that wraps another.
        lists_as_arrays: whether an array may have been a list in the data, so that its shape says
            nothing.
        damaged: number of a record -> why none of its cells can be read.
        notes: what a person should know about how it was read, a line each.
    """

    keys: Sequence[str]
    columns: tuple[str, ...]
    base: AnyPath | None = None
    ignored: Counter[str]
    reader: Reader | None = None
    lists_as_arrays: bool = False
    damaged: Mapping[int, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    @property
    def is_remote(self) -> bool:
        """Whether cells come from a store with a latency, so that many should be read at once
        (`parallel_map`)."""
        if self.reader is not None:
            return self.reader.is_remote
        return isinstance(self.base, Remote)

    def get(self, i: int, column: str) -> Cell:
        """A cell.

        Args:
            i: number of the record.
            column: of the cell.

        Returns:
            None where the record has none.
        """
        raise NotImplementedError

    def row(self, i: int, columns: Sequence[str]) -> dict[str, Cell]:
        """Column -> the cell of a record."""
        return {column: self.get(i, column) for column in columns}

    def cells(self, column: str) -> list[Cell]:
        """The N cells of a column, None of damaged records. It is meant for small ones: labels,
        keys, numbers."""
        every = range(len(self.keys))
        return parallel_map(lambda i: self.undamaged(i, column), every, self.is_remote)

    def undamaged(self, i: int, column: str) -> Cell:
        """A cell as `get` reads it, None of a damaged record."""
        return None if i in self.damaged else self.get(i, column)

    def present(self, column: str) -> np.ndarray:
        """(N,) bool: which records have a cell in this column."""
        return np.array([cell is not None for cell in self.cells(column)], dtype=bool)

    def stamp(self) -> str:
        """A hash that changes with the content."""
        raise NotImplementedError

    def check(self, column: str) -> str:
        """`column`, after a check that there is one of that name.

        Raises:
            AmodalError: there is none; the nearest one is offered.
        """
        if column not in self.columns:
            raise unknown("column of this data", column, self.columns)
        return column


def inside(base: AnyPath, name: object, what: str) -> AnyPath:
    """base / name, where `name` is from a file that anybody may have written.

    Where a link in the folder leads is up to the person who made the link.

    Args:
        base: a folder.
        name: should be a relative path that stays below `base`.
        what: the key that holds it, for the error.

    Raises:
        AmodalError: it is not.
    """
    if not isinstance(name, str) or "\0" in name:
        raise AmodalError(f"{what} should name a file, and is {name!r}")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise AmodalError(
            f"{what} = {name!r} leads out of {base}, and only what is in there is read. "
            "Move the data there, or link to it."
        )
    return base / name


def stamp_files(paths: Sequence[AnyPath]) -> str:
    """Hash files, so that a change of them is noticed.

    A few small files are hashed by content, and have the same hash on every machine. Many or large
    ones, and objects in a store, are hashed by name, size and time. A file that is gone counts as
    one without content; its values end in quarantine.

    Args:
        paths: of the files, in order.

    Returns:
        32 hex digits.
    """
    remote = any(isinstance(path, Remote) for path in paths)
    stats = parallel_map(_stat, paths, remote)
    digest = hashlib.blake2b(digest_size=16)
    total = sum(stat.st_size for stat in stats if stat)
    by_content = not remote and len(paths) <= 2000 and total <= SMALL
    for path, stat in zip(paths, stats):
        if stat is None:
            digest.update(f"{path.name}: gone;".encode("utf-8", "backslashreplace"))
        elif by_content:
            digest.update(path.read_bytes())
        else:
            text = f"{path.name}:{stat.st_size}:{stat.st_mtime_ns};"
            digest.update(text.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _stat(path: AnyPath) -> os.stat_result | Stat | None:
    try:
        return path.stat()
    except (FileNotFoundError, UnreadableObject):
        return None


def unique_keys(cells: Sequence[Cell], column: str, where: str) -> list[str]:
    """The cells of a key column as keys of records.

    Args:
        cells: N.
        column: its name, for errors.
        where: the file, for errors.

    Raises:
        AmodalError: a cell is missing, or occurs twice.
    """
    missing = [i for i, cell in enumerate(cells) if cell is None]
    if missing:
        raise AmodalError(
            f"{where}: record {missing[0]} has no key (column {column!r}), nor have "
            f"{len(missing) - 1} others. Every record needs one: choose another column as `key` "
            "in dataset.toml, or leave `key` out."
        )
    keys = [str(cell) for cell in cells]
    repeated = [key for key, n in Counter(keys).items() if n > 1]
    if repeated:
        raise AmodalError(
            f"{where}: {len(repeated)} keys (column {column!r}) occur more than once, such as "
            f"{repeated[0]!r}. Choose a column as `key` in dataset.toml that is different in every "
            "record, or leave `key` out."
        )
    return keys
