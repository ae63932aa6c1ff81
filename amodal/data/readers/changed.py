"""Another reader's records: some of them, or with more columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.data.readers.base import Cell, Reader


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
