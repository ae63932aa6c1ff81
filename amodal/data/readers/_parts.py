"""Tables in parts: one file each, whose columns are lists in memory, a Parquet file, or Arrow
record batches mapped from disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal.data.readers.base import Lazy
from amodal.data.remote import Remote, Unreachable, together

HELD = 2**30
"""Bytes of Parquet columns that stay in memory; beyond them the row group read first is dropped."""


class Lists:
    """columns: name -> one Python value for each row; hashes: of the rows, where they are better
    known than from the values."""

    def __init__(self, columns: dict[str, list], rows: int, hashes: np.ndarray | None = None):
        self.data, self.columns, self.rows, self.hashes = columns, tuple(columns), rows, hashes

    def cell(self, i: int, column: str):
        return self.data[column][i]

    def cells(self, column: str) -> list:
        return self.data[column]

    def each(self, column: str) -> Iterator:
        return iter(self.data[column])

    def present(self, column: str) -> np.ndarray:
        return np.array([cell is not None for cell in self.data[column]], dtype=bool)


class Parquet(Lazy):
    """A Parquet file, read one column of one row group at a time. Random access wants small row
    groups: see `amodal.data.pack`."""

    def __init__(self, path: Path | Remote):
        self.path = path
        self.__dict__["_footer"] = pq.read_metadata(
            _source(path)
        )  # its property lets in one thread at a time
        self.columns = tuple(self._footer.schema.to_arrow_schema().names)
        self.rows = self._footer.num_rows
        groups = [self._footer.row_group(g).num_rows for g in range(self._footer.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        return pq.read_metadata(_source(self.path))

    @cached_property
    def _reading(self) -> dict[tuple[int, str], Lock]:
        return {}

    @cached_property
    def _held(self) -> dict[tuple[int, str], tuple[pa.Array, int]]:
        """The columns of groups in memory, and the bytes of each, which Arrow takes a while to
        count."""
        return {}

    def cell(self, i: int, column: str):
        group = bisect_right(self.starts, i) - 1
        return value_of(self._column(group, column)[i - int(self.starts[group])])

    def cells(self, column: str) -> list:
        groups = range(len(self.starts) - 1)
        lists = together(
            lambda g: self._column(g, column).to_pylist(), groups, isinstance(self.path, Remote)
        )
        return [cell for cells in lists for cell in cells]

    def each(self, column: str) -> Iterator:
        """The cells one by one: pictures need not be in memory all at once."""
        return (
            value_of(cell) for g in range(len(self.starts) - 1) for cell in self._column(g, column)
        )

    def present(self, column: str) -> np.ndarray:
        return np.concatenate(
            [np.zeros(0, bool), *(self._present(g, column) for g in range(len(self.starts) - 1))]
        )

    def _present(self, group: int, column: str) -> np.ndarray:
        """From the statistics in the footer where they settle it: pictures need not be read to know
        that none is missing."""
        meta = self._footer.row_group(group)
        leaves = (meta.column(c) for c in range(meta.num_columns))
        stats = next((leaf.statistics for leaf in leaves if leaf.path_in_schema == column), None)
        if stats is not None and stats.has_null_count and stats.null_count in (0, meta.num_rows):
            return np.full(meta.num_rows, stats.null_count == 0)
        try:
            return flags(self._column(group, column).is_valid())
        except Unreachable:
            raise
        except (
            pa.ArrowException,
            OSError,
            ValueError,
        ):  # damaged: each of its cells will say so when it is read
            return np.ones(meta.num_rows, bool)

    def _column(self, group: int, column: str) -> pa.Array:
        """Kept, with the other columns of its group and with groups read before as far as HELD
        goes. Several threads may ask at once, so each opens the file anew."""
        held = self._held.get((group, column))
        if held is None and isinstance(self.path, Remote):  # not as often as threads want it
            with self._reading.setdefault((group, column), Lock()):
                held = self._held.get((group, column))
                return self._read(group, column) if held is None else held[0]
        return self._read(group, column) if held is None else held[0]

    def _read(self, group: int, column: str) -> pa.Array:
        # Checksums of pages are optional, and cost next to nothing where a file has them.
        with pq.ParquetFile(
            _source(self.path), metadata=self._footer, page_checksum_verification=True
        ) as file:
            # One thread: Arrow's thread pool does not survive a fork.
            read = file.read_row_group(group, columns=[column], use_threads=False)
            read.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
            array = one_array(read.column(column))
        self._held[group, column] = array, array.nbytes
        held = list(self._held.items())
        excess = sum(size for _, (_, size) in held) - HELD
        for key, (_, size) in held:
            if excess > 0 and key[0] != group and self._held.pop(key, None) is not None:
                excess -= size
        return array


def _source(path: Path | Remote):
    return path.ranges() if isinstance(path, Remote) else path


class Mapped(Lazy):
    """Arrow record batches mapped from disk. open: path -> pyarrow.Table, at module level so that
    it can be pickled."""

    def __init__(self, path: Path | Remote, open: Callable[[Path], pa.Table]):
        self.path, self.open = path, open
        self.columns, self.rows = tuple(self._table.column_names), self._table.num_rows

    @cached_property
    def _table(self) -> pa.Table:
        return self.open(self.path.local() if isinstance(self.path, Remote) else self.path)

    def cell(self, i: int, column: str):
        return value_of(self._table.column(column)[i])

    def cells(self, column: str) -> list:
        return self._table.column(column).to_pylist()

    def each(self, column: str) -> Iterator:
        return map(value_of, self._table.column(column))

    def present(self, column: str) -> np.ndarray:
        return flags(one_array(self._table.column(column).is_valid()))


Part = Lists | Parquet | Mapped


def one_array(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )


def flags(array: pa.BooleanArray) -> np.ndarray:
    """(n,) bool. Not by `to_numpy`, which first loads pandas where that is installed: a second."""
    return np.from_dlpack(array.cast(pa.uint8())).astype(bool)


def value_of(scalar: pa.Scalar):
    """A cell as Python sees it. Lists of numbers become arrays at once, which is 20 times as fast
    as by way of Python lists."""
    if (
        isinstance(scalar, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar))
        and scalar.is_valid
    ):
        array = _nested(scalar.values)
        return scalar.as_py() if array is None else array
    return scalar.as_py()


def _nested(values: pa.Array) -> np.ndarray | None:
    """An array of numbers, or of equally long lists of numbers, as a numpy array (missing numbers
    are NaN); None for all else."""
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


def starts_of(parts: Sequence[Part]) -> np.ndarray:
    """(parts + 1,) int64: the number of the first row of each part, and of all rows."""
    return np.concatenate([[0], np.cumsum([part.rows for part in parts])]).astype(np.int64)
