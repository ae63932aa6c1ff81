"""Parts of tables: lists in memory, a Parquet file, or Arrow record batches in memory or
mapped from disk."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal.data.readers._parquet_footer import all_or_none, null_counts
from amodal.data.readers.base import Cell, Lazy
from amodal.data.remote import AnyPath, Remote, Unreachable, parallel_map

MAX_CACHED_BYTES = 2**30
"""Bytes of Parquet columns in memory. Beyond them the row groups read first are dropped."""


class TablePart(Protocol):
    """A part of a table: some rows, and the columns that they have.

    Attributes:
        columns: their names.
        rows: how many there are.
    """

    columns: tuple[str, ...]
    rows: int

    def cell(self, i: int, column: str) -> Cell:
        """The cell of row i of this part."""

    def cells(self, column: str) -> list[Cell]:
        """All cells of a column."""

    def iterate(self, column: str) -> Iterator[Cell]:
        """The cells of a column one by one: pictures need not be in memory all at once."""

    def present(self, column: str) -> np.ndarray:
        """(rows,) bool: which rows have a cell in this column."""


class HashedPart:
    """A part that may know the hashes of its rows, and rows that are damaged.

    Attributes:
        hashes: (rows,) uint64, None where they are those of the values.
        damaged: row -> what is wrong with it. It has no cells.
        notes: see `Reader`.
    """

    hashes: np.ndarray | None = None
    damaged: Mapping[int, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()


class Lists(HashedPart):
    """A part in memory.

    Args:
        columns: name -> one value for each row.
        rows: how many there are.
        hashes: (rows,) uint64 of the rows, where those of the values would be wrong.
        damaged, notes: see `HashedPart`.
    """

    def __init__(
        self,
        columns: dict[str, list[Cell]],
        rows: int,
        hashes: np.ndarray | None = None,
        damaged: Mapping[int, str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.data, self.columns, self.rows, self.hashes = columns, tuple(columns), rows, hashes
        self.damaged, self.notes = dict(damaged or {}), tuple(notes)

    def cell(self, i: int, column: str) -> Cell:
        return self.data[column][i]

    def cells(self, column: str) -> list[Cell]:
        return self.data[column]

    def iterate(self, column: str) -> Iterator[Cell]:
        return iter(self.data[column])

    def present(self, column: str) -> np.ndarray:
        have = np.array([cell is not None for cell in self.data[column]], dtype=bool)
        have[list(self.damaged)] = True  # whoever reads it learns why it cannot be read
        return have


class Parquet(Lazy):
    """A Parquet file, read one column of one row group at a time.

    Random access is fast with small row groups; `amodal.data.pack` writes such data.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        # Not by the cached property, which lets in one thread at a time.
        self.__dict__["_footer"] = pq.read_metadata(_source(path))
        self.columns = tuple(self._footer.schema.to_arrow_schema().names)
        self.rows = self._footer.num_rows
        groups = [self._footer.row_group(g).num_rows for g in range(self._footer.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        return pq.read_metadata(_source(self.path))

    @cached_property
    def _null_counts(self) -> list[dict[str, int]]:
        """For each row group column -> missing values; [] of a footer that is damaged."""
        try:
            source = _source(self.path)
            with source if isinstance(source, io.RawIOBase) else source.open("rb") as stream:
                return null_counts(stream)
        except Unreachable:
            raise
        except (OSError, ValueError):
            return []

    @cached_property
    def _locks(self) -> dict[tuple[int, str], Lock]:
        return {}

    @cached_property
    def _cache(self) -> dict[tuple[int, str], tuple[pa.Array, int]]:
        """(group, column) -> its cells and their bytes, which Arrow is slow to count."""
        return {}

    def cell(self, i: int, column: str) -> Cell:
        group = bisect_right(self.starts, i) - 1
        return value_of(self._column(group, column)[i - int(self.starts[group])])

    def cells(self, column: str) -> list[Cell]:
        groups = range(len(self.starts) - 1)
        lists = parallel_map(
            lambda g: list(self._column(g, column).to_pylist()),
            groups,
            isinstance(self.path, Remote),
        )
        return [cell for cells in lists for cell in cells]

    def iterate(self, column: str) -> Iterator[Cell]:
        return (
            value_of(cell) for g in range(len(self.starts) - 1) for cell in self._column(g, column)
        )

    def present(self, column: str) -> np.ndarray:
        return np.concatenate(
            [np.zeros(0, bool), *(self._present(g, column) for g in range(len(self.starts) - 1))]
        )

    def _present(self, group: int, column: str) -> np.ndarray:
        """By the statistics in the footer where they suffice: pictures need not be read to know
        that none is missing."""
        rows = self._footer.row_group(group).num_rows
        counts = self._null_counts[group] if group < len(self._null_counts) else {}
        if (known := all_or_none(counts, column, rows)) is not None:
            return known
        try:
            return flags(self._column(group, column).is_valid())
        except Unreachable:
            raise
        except (pa.ArrowException, OSError, ValueError):
            # It is damaged. Each of its cells will be an error when it is read.
            return np.ones(rows, bool)

    def _column(self, group: int, column: str) -> pa.Array:
        """The cells of a column of a group, from the cache if they are in it."""
        cached = self._cache.get((group, column))
        if cached is None and isinstance(self.path, Remote):
            # Many threads may need it at once, and one download is enough.
            with self._locks.setdefault((group, column), Lock()):
                cached = self._cache.get((group, column))
                return self._read(group, column) if cached is None else cached[0]
        return self._read(group, column) if cached is None else cached[0]

    def _read(self, group: int, column: str) -> pa.Array:
        # Each thread opens the file anew. Checksums of pages are optional, and cost next to nothing
        # where a file has them.
        with pq.ParquetFile(
            _source(self.path), metadata=self._footer, page_checksum_verification=True
        ) as file:
            # One thread: Arrow's thread pool does not survive a fork.
            read = file.read_row_group(group, columns=[column], use_threads=False)
            read.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
            array = one_array(read.column(column))
        self._cache[group, column] = array, array.nbytes
        cached = list(self._cache.items())
        excess = sum(size for _, (_, size) in cached) - MAX_CACHED_BYTES
        for key, (_, size) in cached:
            if excess > 0 and key[0] != group and self._cache.pop(key, None) is not None:
                excess -= size
        return array


def _source(path: AnyPath) -> Path | io.RawIOBase:
    return path.ranges() if isinstance(path, Remote) else path


class ArrowPart(Lazy):
    """A part whose cells are in an Arrow table, which `_table` is."""

    columns: tuple[str, ...]
    rows: int

    @property
    def _table(self) -> pa.Table:
        raise NotImplementedError

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow types of the columns."""
        return self._table.schema

    def cell(self, i: int, column: str) -> Cell:
        return value_of(self._table.column(column)[i])

    def cells(self, column: str) -> list[Cell]:
        return list(self._table.column(column).to_pylist())

    def iterate(self, column: str) -> Iterator[Cell]:
        return map(value_of, self._table.column(column))

    def present(self, column: str) -> np.ndarray:
        return flags(one_array(self._table.column(column).is_valid()))


class Mapped(ArrowPart):
    """Arrow record batches mapped from disk.

    Args:
        path: of the file.
        open: path -> table; a function of a module, so that it can be pickled.
    """

    def __init__(self, path: AnyPath, open: Callable[[Path], pa.Table]) -> None:
        self.path, self.open = path, open
        self.columns, self.rows = tuple(self._table.column_names), self._table.num_rows

    @cached_property
    def _table(self) -> pa.Table:
        return self.open(self.path.local() if isinstance(self.path, Remote) else self.path)


class Held(ArrowPart):
    """An Arrow table in memory."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.columns, self.rows = tuple(table.column_names), table.num_rows

    @property
    def _table(self) -> pa.Table:
        return self.table


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def flags(array: pa.BooleanArray) -> np.ndarray:
    """(n,) bool. Not by `to_numpy`, which first imports pandas where it is installed: a second."""
    return np.from_dlpack(array.cast(pa.uint8())).astype(bool)


def value_of(scalar: pa.Scalar) -> Cell:
    """A cell as a Python value. Lists of numbers become arrays directly, which is 20 times as fast
    as by way of Python lists."""
    is_list = isinstance(scalar, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar))
    if is_list and scalar.is_valid:
        array = _nested(scalar.values)
        return scalar.as_py() if array is None else array
    return scalar.as_py()


def _nested(values: pa.Array) -> np.ndarray | None:
    """An array of numbers, or of equally long lists of numbers, as a numpy array, missing numbers
    as NaN; None for all else."""
    if (
        pa.types.is_list(values.type)
        or pa.types.is_large_list(values.type)
        or pa.types.is_fixed_size_list(values.type)
    ):
        lengths = set(values.value_lengths().to_pylist()) if values.null_count == 0 else {-1}
        inner = _nested(values.flatten()) if len(lengths) == 1 and lengths != {-1} else None
        return (
            None if inner is None else inner.reshape(len(values), lengths.pop(), *inner.shape[1:])
        )
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return None
    return values.to_numpy(zero_copy_only=False) if values.null_count else np.from_dlpack(values)


def starts_of(parts: Sequence[TablePart]) -> np.ndarray:
    """(parts + 1,) int64: the number of the first row of each part, and of all rows."""
    return np.concatenate([[0], np.cumsum([part.rows for part in parts])]).astype(np.int64)
