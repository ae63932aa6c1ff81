"""Another reader's records: some of them, or with more columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError
from amodal.data.readers.base import Cell, Reader
from amodal.errors import described


def row_numbers(indices: npt.ArrayLike, n: int, name: str) -> np.ndarray:
    """A choice of records by their numbers.

    Args:
        indices: whole numbers, from -n to n - 1, or a mask of n.
        n: how many records there are.
        name: of the dataset, for messages.

    Returns:
        (K,) int64, from 0 to n - 1.

    Raises:
        AmodalError: there is no such record, or something else is given.
    """
    rows = np.asarray(indices)
    rows = rows.astype(np.int64) if not rows.size and rows.dtype.kind == "f" else rows  # [] is one
    if rows.ndim != 1 or rows.dtype.kind not in "iub":
        raise AmodalError(
            "records are chosen by a list of their numbers, as [0, 1], or a mask with True or "
            f"False for each, not by {described(indices)}"
        )
    if rows.dtype.kind == "b":
        if len(rows) != n:
            raise AmodalError(f"a mask of {len(rows):,} for the {n:,} records of {name!r}")
        return np.flatnonzero(rows)
    wrong = rows[(rows < -n) | (rows >= n)]
    if len(wrong):
        raise AmodalError(f"{name!r} has no record {wrong[0]}: it has {n:,}, from 0 to {n - 1:,}")
    return rows.astype(np.int64) % max(n, 1)


class Subset(Reader):
    """Some records of another reader."""

    reader: Reader

    def __init__(self, reader: Reader, indices: npt.ArrayLike) -> None:
        self.reader, self.indices = reader, np.asarray(indices, dtype=np.int64)
        self.keys = [reader.keys[i] for i in self.indices]
        self.columns, self.base, self.ignored = reader.columns, reader.base, reader.ignored
        self.notes = reader.notes
        if reader.damaged:
            there = ((n, reader.damaged.get(int(i))) for n, i in enumerate(self.indices))
            self.damaged = {n: reason for n, reason in there if reason is not None}

    def get(self, i: int, column: str) -> Cell:
        return self.reader.get(int(self.indices[i]), column)

    def row(self, i: int, columns: Sequence[str]) -> dict[str, Cell]:
        return self.reader.row(int(self.indices[i]), columns)

    def present(self, column: str) -> np.ndarray:
        return self.reader.present(column)[self.indices]

    def check(self, column: str) -> str:
        return self.reader.check(column)

    def stamp(self) -> str:
        return self.reader.stamp()


class WithColumns(Reader):
    """Another reader's records, with columns that are empty."""

    reader: Reader

    def __init__(self, reader: Reader, names: Sequence[str]) -> None:
        self.reader, self.empty = reader, frozenset(names)
        self.keys, self.columns = reader.keys, (*reader.columns, *names)
        self.base, self.ignored, self.damaged = reader.base, reader.ignored, reader.damaged

    def get(self, i: int, column: str) -> Cell:
        return None if column in self.empty else self.reader.get(i, column)

    def present(self, column: str) -> np.ndarray:
        return (
            np.zeros(len(self.keys), dtype=bool)
            if column in self.empty
            else self.reader.present(column)
        )

    def check(self, column: str) -> str:
        return column if column in self.empty else self.reader.check(column)

    def stamp(self) -> str:
        return self.reader.stamp()
