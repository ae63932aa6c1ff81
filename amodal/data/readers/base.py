"""What a reader is: records by number, cells by column name. It knows nothing of modalities; a cell
is whatever the source holds."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data.remote import Lost, Remote, together

SMALL = 64 * 2**20
"""Files of fewer bytes together (and at most 2,000 of them) are identified by content, larger ones
by size and time."""


class Lazy:
    """What `cached_property` holds — open files, mapped tables — is not pickled: it is made again
    where the object arrives."""

    def __getstate__(self) -> dict:
        lazy = {
            name
            for kind in type(self).__mro__
            for name, v in vars(kind).items()
            if isinstance(v, cached_property)
        }
        return {name: v for name, v in self.__dict__.items() if name not in lazy}


class Reader(Lazy):
    """keys: N record ids, unique; columns: what a record may have; base: where relative paths in
    cells start.

    A reader can be pickled, so that it goes to worker processes whatever way they are started.
    """

    keys: Sequence[str]
    columns: tuple[str, ...]
    base: Path | Remote | None = None
    ignored: Counter
    """What was passed over, and how often: {"*.db": 3}."""

    @property
    def far(self) -> bool:
        """Whether cells come from a store that takes its time, so that many should be asked for at
        once (`together`)."""
        inner = getattr(self, "reader", None)
        return isinstance(self.base, Remote) if inner is None else inner.far

    def get(self, i: int, column: str):
        """The cell of record i (a value, bytes, or the Path or Remote of a file), None where there
        is none."""
        raise NotImplementedError

    def cells(self, column: str) -> list:
        """The N cells of a column; meant for small ones: labels, keys, numbers."""
        return together(lambda i: self.get(i, column), range(len(self.keys)), self.far)

    def present(self, column: str) -> np.ndarray:
        """(N,) bool: which records have a cell in this column."""
        return np.array([cell is not None for cell in self.cells(column)], dtype=bool)

    def stamp(self) -> str:
        """Changes when the content does."""
        raise NotImplementedError

    def check(self, column: str) -> str:
        """`column`, if there is one of that name."""
        if column not in self.columns:
            raise unknown("column of this data", column, self.columns)
        return column


def inside(base: Path, name, what: str) -> Path:
    """base / name, where `name` comes out of a file that anybody may have written. Raises
    AmodalError where it is no relative path that stays below `base`. What a link in there leads to
    is up to who put it there."""
    if not isinstance(name, str) or "\0" in name:
        raise AmodalError(f"{what} should name a file, and is {name!r}")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise AmodalError(
            f"{what} = {name!r} leads out of {base}, and only what is in there is read. Move the data there, or link to it."
        )
    return base / name


def stamp_files(paths: Sequence[Path]) -> str:
    """A hash of the content of few small files, which is the same on every machine; of names, sizes
    and times of many or large ones, and of objects in a store. A file that is gone by now counts as
    one without content: what is read of it goes to quarantine."""
    far = any(isinstance(path, Remote) for path in paths)
    stats = together(_stat, paths, far)
    digest = hashlib.blake2b(digest_size=16)
    by_content = not far and len(paths) <= 2000 and sum(s.st_size for s in stats if s) <= SMALL
    for path, stat in zip(paths, stats):
        if stat is None:
            digest.update(f"{path.name}: gone;".encode("utf-8", "backslashreplace"))
        elif by_content:
            digest.update(path.read_bytes())
        else:
            digest.update(
                f"{path.name}:{stat.st_size}:{stat.st_mtime_ns};".encode(
                    "utf-8", "backslashreplace"
                )
            )
    return digest.hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, Lost):
        return None


def unique_keys(cells: Sequence, column: str, where: str) -> list[str]:
    """The cells of the key column as record ids; an error where one is missing or occurs twice."""
    missing = [i for i, cell in enumerate(cells) if cell is None]
    if missing:
        raise AmodalError(
            f"{where}: record {missing[0]} has no key (column {column!r}), nor have {len(missing) - 1} others. "
            "Every record needs one: choose another column as `key` in dataset.toml, or leave `key` out."
        )
    keys = [str(cell) for cell in cells]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    if twice:
        raise AmodalError(
            f"{where}: {len(twice)} keys (column {column!r}) occur more than once, such as {twice[0]!r}. "
            "Choose a column as `key` in dataset.toml that tells the records apart, or leave `key` out."
        )
    return keys
