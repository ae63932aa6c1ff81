"""What all tables share: parts end to end, a key column, cells that are files."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._content import content_keys, row_hashes
from amodal.data.readers._parts import Part, starts_of
from amodal.data.readers.base import Reader, stamp_files, unique_keys
from amodal.data.remote import Remote


class Tabular(Reader):
    """parts: one for each file of `paths`, end to end; base: where relative paths in cells start;
    key: a column, "" to name the rows by a hash of what is in them; names: column -> the names of
    the classes that its whole numbers stand for; given: further columns of N values."""

    def __init__(
        self,
        parts: Sequence[Part],
        paths: Sequence[Path],
        base: Path | Remote,
        key: str = "",
        names: dict[str, list[str]] | None = None,
        given: dict[str, list] | None = None,
    ):
        self.parts, self.paths, self.base = list(parts), list(paths), base
        self.starts = starts_of(parts)
        self.names, self.given = names or {}, given or {}
        self.ignored = Counter()
        self.columns = tuple(
            dict.fromkeys([*(c for part in parts for c in part.columns), *self.given])
        )
        if not self.starts[-1]:
            raise AmodalError(f"no rows in {', '.join(map(str, self.paths[:3])) or base}")
        self.keys = self._keys(key)

    def get(self, i: int, column: str):
        if column in self.given:
            return self.given[column][i]
        part = self.parts[number := bisect_right(self.starts, i) - 1]
        if column not in part.columns:
            self.check(column)
            return None
        return self._cell(
            self._whole(number, column, lambda p: p.cell(i - int(self.starts[number]), column)),
            column,
        )

    def cells(self, column: str) -> list:
        if column in self.given:
            return list(self.given[column])
        self.check(column)
        columns = (
            self._whole(n, column, lambda p: p.cells(column))
            if column in part.columns
            else [None] * part.rows
            for n, part in enumerate(self.parts)
        )
        return [self._cell(cell, column) for cells in columns for cell in cells]

    def present(self, column: str) -> np.ndarray:
        if column in self.given:
            return super().present(column)
        self.check(column)
        return np.concatenate(
            [
                self._whole(n, column, lambda p: p.present(column))
                if column in p.columns
                else np.zeros(p.rows, bool)
                for n, p in enumerate(self.parts)
            ]
        )

    def _whole(self, number: int, column: str, read: Callable):
        """What `read` gives of a part. Raises AmodalError that names the file where it is damaged."""
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
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AmodalError(
                f"{file} is damaged: the column {column!r} cannot be read ({said}). Fetch it again."
            ) from error

    def stamp(self) -> str:
        return stamp_files(self.paths)

    def _cell(self, cell, column: str):
        """Class numbers to names; the {bytes, path} that Hugging Face keeps pictures and sound in
        to the one that is there."""
        if column in self.names:
            named = isinstance(cell, int) and 0 <= cell < len(self.names[column])
            return self.names[column][cell] if named else None
        if isinstance(cell, dict) and {"bytes", "path"} >= set(cell):
            return (
                cell["bytes"]
                if cell.get("bytes") is not None
                else self.base / cell["path"]
                if cell.get("path")
                else None
            )
        return cell

    def _keys(self, key: str) -> list[str]:
        if key:
            where = (
                self.paths[0].name
                if len(self.paths) == 1
                else f"{len(self.paths)} files in {self.base}"
            )
            return unique_keys(self.cells(key), key, where)
        return content_keys(
            np.concatenate([self._whole(n, "*", _hashes) for n in range(len(self.parts))])
        )


def _hashes(part: Part) -> np.ndarray:
    given = getattr(part, "hashes", None)
    return (
        row_hashes(((column, part.each(column)) for column in part.columns), part.rows)
        if given is None
        else given
    )
