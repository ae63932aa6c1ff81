"""What all tables have in common: parts one after the other, a key column, cells that are files."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._content import content_keys, row_hashes
from amodal.data.readers._parts import HashedPart, TablePart, starts_of
from amodal.data.readers.base import Cell, Reader, stamp_files, unique_keys
from amodal.data.remote import AnyPath

T = TypeVar("T")


class Tabular(Reader):
    """A table.

    Args:
        parts: one for each file, one after the other.
        paths: the files.
        base: where relative paths in cells start.
        key: the column that names the rows, "" for hashes of their content.
        class_names: column -> the names of the classes that its whole numbers stand for.
        extra_columns: column -> N more values.

    Raises:
        AmodalError: there are no rows, or a key is missing or occurs twice.
    """

    def __init__(
        self,
        parts: Sequence[TablePart],
        paths: Sequence[AnyPath],
        base: AnyPath,
        key: str = "",
        class_names: Mapping[str, list[str]] | None = None,
        extra_columns: Mapping[str, list[Cell]] | None = None,
    ) -> None:
        self.parts, self.paths, self.base = list(parts), list(paths), base
        self.starts = starts_of(parts)
        self.columns_of = [frozenset(part.columns) for part in parts]
        self.class_names, self.extra_columns = class_names or {}, extra_columns or {}
        self.damaged = {
            int(start) + row: reason
            for start, part in zip(self.starts, self.parts)
            if isinstance(part, HashedPart)
            for row, reason in part.damaged.items()
        }
        hashed = [part for part in parts if isinstance(part, HashedPart)]
        self.notes = tuple(dict.fromkeys(note for part in hashed for note in part.notes))
        self.ignored = Counter({"damaged lines": len(self.damaged)} if self.damaged else {})
        self.columns = tuple(
            dict.fromkeys([*(c for part in parts for c in part.columns), *self.extra_columns])
        )
        if not self.starts[-1]:
            raise AmodalError(f"no rows in {', '.join(map(str, self.paths[:3])) or base}")
        self.key, self.keys = key, self._keys(key)

    def get(self, i: int, column: str) -> Cell:
        if i in self.damaged:
            raise AmodalError(self.damaged[i])
        if column in self.extra_columns:
            return self.extra_columns[column][i]
        number = bisect_right(self.starts, i) - 1
        if column not in self.columns_of[number]:
            self.check(column)
            return None
        return self._cell(
            self._read_part(number, column, lambda p: p.cell(i - int(self.starts[number]), column)),
            column,
        )

    def row(self, i: int, columns: Sequence[str]) -> dict[str, Cell]:
        if i in self.damaged:
            raise AmodalError(self.damaged[i])
        number = bisect_right(self.starts, i) - 1
        if not self.columns_of[number].issuperset(columns):  # some are of no part, or of others
            return super().row(i, columns)
        start = int(self.starts[number])

        def read(part: TablePart) -> dict[str, Cell]:
            return {column: part.cell(i - start, column) for column in columns}

        cells = self._read_part(number, ", ".join(columns[:3]), read)
        return {column: self._cell(cell, column) for column, cell in cells.items()}

    def check(self, column: str) -> str:
        if any(column in names for names in self.columns_of):  # a thousand columns are quick
            return column
        return super().check(column)

    def cells(self, column: str) -> list[Cell]:
        if column in self.extra_columns:
            return list(self.extra_columns[column])
        self.check(column)
        columns = (
            self._read_part(n, column, lambda p: p.cells(column))
            if column in self.columns_of[n]
            else [None] * part.rows
            for n, part in enumerate(self.parts)
        )
        return [self._cell(cell, column) for cells in columns for cell in cells]

    def present(self, column: str) -> np.ndarray:
        if column in self.extra_columns:
            return super().present(column)
        self.check(column)
        return np.concatenate(
            [
                self._read_part(n, column, lambda p: p.present(column))
                if column in self.columns_of[n]
                else np.zeros(p.rows, bool)
                for n, p in enumerate(self.parts)
            ]
        )

    def _read_part(self, number: int, column: str, read: Callable[[TablePart], T]) -> T:
        """What `read` returns for a part. Raises AmodalError with the file if it is damaged."""
        try:
            return read(self.parts[number])
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            OverflowError,
            LookupError,
            TypeError,
        ) as error:
            if isinstance(error, AmodalError):
                raise
            file = self.paths[number] if number < len(self.paths) else self.base
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AmodalError(
                f"{file} is damaged: the column {column!r} cannot be read ({reason}). "
                "Download it anew."
            ) from error

    def stamp(self) -> str:
        return stamp_files(self.paths)

    def _cell(self, cell: Cell, column: str) -> Cell:
        """A cell as readers return it: class numbers as names, and of the {bytes, path} in which
        Hugging Face stores pictures and sound the one that is not missing."""
        if column in self.class_names:
            named = isinstance(cell, int) and 0 <= cell < len(self.class_names[column])
            return self.class_names[column][cell] if named else None
        if isinstance(cell, dict) and {"bytes", "path"} >= set(cell):
            if cell.get("bytes") is not None:
                return cell["bytes"]
            return self.base / cell["path"] if cell.get("path") else None
        return cell

    def _keys(self, key: str) -> list[str]:
        if key:
            # a damaged line says where it is
            cells = [
                self.damaged[i].partition(": ")[0] if i in self.damaged else cell
                for i, cell in enumerate(self.cells(key))
            ]
            return unique_keys(cells, key, self._described())
        return content_keys(self._hashes)

    def _described(self) -> str:
        """Where the rows are, for errors."""
        if len(self.paths) == 1:
            return self.paths[0].name
        return f"{len(self.paths)} files in {self.base}"

    @cached_property
    def _hashes(self) -> np.ndarray:
        """(N,) uint64 of the content of the rows."""
        parts = range(len(self.parts))
        return np.concatenate([self._read_part(n, "*", _hashes_of) for n in parts])


def _hashes_of(part: TablePart) -> np.ndarray:
    if isinstance(part, HashedPart) and part.hashes is not None:
        return part.hashes
    return row_hashes(((column, part.iterate(column)) for column in part.columns), part.rows)
