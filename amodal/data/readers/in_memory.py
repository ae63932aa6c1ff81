"""Rows in memory: data frames, Arrow tables, lists of records, items of a dataset of torch.

They are read as a table on disk is: a row without a key column is named by its content, and
relative paths in cells start in the working directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers._content import row_hashes
from amodal.data.readers._parts import HashedPart, Lists, TablePart
from amodal.data.readers._tabular import Tabular
from amodal.data.readers.as_numpy import as_numpy, is_array
from amodal.data.readers.base import Cell
from amodal.modalities.shared.cells import plain
from amodal.progress import Bar

T = TypeVar("T")
SMALL = (str, bool, int, float)
"""Cells that are remembered: whatever else an item has is read when it is needed."""
QUICK = 1000
"""Items that are read without a bar."""


class Rows(Tabular):
    """Rows in memory.

    Args:
        parts: one after the other.
        key, extra_columns: as of `Tabular`.
        lists_as_arrays: see `Reader`.

    Raises:
        AmodalError: there are none.
    """

    def __init__(
        self,
        parts: Sequence[TablePart],
        key: str = "",
        extra_columns: Mapping[str, list[Cell]] | None = None,
        lists_as_arrays: bool = False,
    ) -> None:
        self.lists_as_arrays = lists_as_arrays
        if not any(part.rows for part in parts):
            raise AmodalError("these are no records: there is no row in them")
        super().__init__(parts, [], Path(), key, None, extra_columns)

    def stamp(self) -> str:
        digest = hashlib.blake2b(repr(self.columns).encode(), digest_size=16)
        digest.update(self._hashes.tobytes())
        return digest.hexdigest()

    def _described(self) -> str:
        return "the records"

    def _read_part(self, number: int, column: str, read: Callable[[TablePart], T]) -> T:
        return read(self.parts[number])


class Numbered(Protocol):
    """A dataset of torch whose items have numbers."""

    def __len__(self) -> int:
        """How many items there are."""

    def __getitem__(self, i: int) -> Any:
        """Item i."""


class Items(HashedPart):
    """Items of a dataset of torch. All are read once at first, for what they have and for their
    hashes; values that are not single words or numbers are read again when they are needed.

    Args:
        source: items are dicts, tuples or single values.

    Raises:
        AmodalError: there are none.
    """

    def __init__(self, source: Numbered) -> None:
        self.source, self.rows = source, len(source)
        if not self.rows:
            raise AmodalError(f"this {type(source).__name__} has no items")
        self.names = [str(name) for name in getattr(source, "classes", None) or ()]
        small: dict[str, list[Cell]] = {}
        self.in_rows: dict[str, np.ndarray] = {}
        large: set[str] = set()
        hashes = np.zeros(self.rows, dtype=np.uint64)
        with Bar("read", self.rows, shown=self.rows > QUICK) as bar:
            for i in range(self.rows):
                item = self._item(i)
                for column, cell in item.items():
                    in_rows = self.in_rows.setdefault(column, np.zeros(self.rows, dtype=bool))
                    in_rows[i] = cell is not None
                    if cell is None or isinstance(cell, SMALL):
                        small.setdefault(column, [None] * self.rows)[i] = cell
                    else:
                        large.add(column)
                hashes[i] = row_hashes(((c, [cell]) for c, cell in item.items()), 1)[0]
                bar.step("items")
        self.small = {column: cells for column, cells in small.items() if column not in large}
        self.columns, self.hashes = tuple(self.in_rows), hashes

    def cell(self, i: int, column: str) -> Cell:
        if column in self.small:
            return self.small[column][i]
        return self._item(i).get(column)

    def cells(self, column: str) -> list[Cell]:
        return list(self.iterate(column))

    def iterate(self, column: str) -> Iterator[Cell]:
        return (self.cell(i, column) for i in range(self.rows))

    def present(self, column: str) -> np.ndarray:
        return self.in_rows[column]

    def _item(self, i: int) -> dict[str, Cell]:
        try:
            item = named(self.source[i])
        except Exception as error:  # code of the user's
            raise AmodalError(
                f"item {i:,} of this {type(self.source).__name__} cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error
        label = item.get("label")
        if isinstance(label, int) and 0 <= label < len(self.names):
            item["label"] = self.names[label]
        return item


def lists(rows: Iterable[Any], *, limit: int | None = None, shown: bool = True) -> Lists:
    """Records that come one by one as a part in memory.

    Args:
        rows: dicts, tuples or single values.
        limit: how many are read at most.
        shown: whether to show a bar.
    """
    columns: dict[str, list[Cell]] = {}
    n = 0
    with Bar("read", limit, shown=shown) as bar:
        for row in islice(rows, limit):
            for column, cell in named(row).items():
                columns.setdefault(column, [None] * n).append(cell)
            n += 1
            for cells in columns.values():
                cells.extend([None] * (n - len(cells)))
            bar.step("records")
    return Lists(columns, n)


def named(item: Any) -> dict[str, Cell]:
    """An item as column -> cell.

    The columns of a pair (value, label) are called x and label, those of other tuples x0, x1, …,
    and that of a single value x.
    """
    if isinstance(item, Mapping):
        return {str(name): cell_of(value) for name, value in item.items()}
    if names := getattr(item, "_fields", None):  # a namedtuple
        return named(dict(zip(names, item)))
    if not isinstance(item, (tuple, list)):
        return {"x": cell_of(item)}
    values = [cell_of(value) for value in item]
    if len(values) == 2 and isinstance(values[1], SMALL):
        return dict(zip(("x", "label"), values))
    return {f"x{i}": value for i, value in enumerate(values)}


def cell_of(value: Any) -> Cell:
    """A value as readers return it: tensors as arrays, NaN and pandas' NaT and NA as None."""
    if is_array(value):
        value = as_numpy(value)
        value = value if value.ndim else value[()]
    value = plain(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return None if isinstance(value, float) and value != value else value
