"""A shard of a pack in object storage.

Its index is read when it is opened, and a value when it is needed, each by requests for ranges.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers.base import Cell, Lazy
from amodal.data.remote import Remote, parallel_map

MERGE_GAP = 64 * 2**10
"""Parts of an index with fewer bytes between them are read by one request."""


class RemoteShard(Lazy):
    """A part of a table, as `Mapped`: one record batch.

    Args:
        path: of the shard.
        cells: the type of the columns with values: structs whose last buffer is their content.
    """

    def __init__(self, path: Remote, cells: pa.DataType) -> None:
        self.path, self.cell_type = path, cells
        # Not by the cached property, which lets in one thread at a time.
        self.__dict__["_index"] = self._read_index()
        self.columns, self.rows = tuple(self._batch.schema.names), self._batch.num_rows

    @cached_property
    def _index(self) -> tuple[pa.RecordBatch, int]:
        return self._read_index()

    @property
    def _batch(self) -> pa.RecordBatch:
        return self._index[0]

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow types of the columns."""
        return self._batch.schema

    def _read_index(self) -> tuple[pa.RecordBatch, int]:
        """The batch and the address of its memory. The memory has the size of the file, but only
        the index is filled in."""
        size = self.path.stat().st_size

        def fill(start: int, stop: int) -> None:
            if not 0 <= start <= stop <= size:
                raise ValueError(f"it points to byte {stop if start >= 0 else start:,} of {size:,}")
            memory[start:stop] = self.path.read(start, stop)

        try:
            memory = mmap.mmap(-1, max(size, 1))  # pages that nobody touches take no memory
            fill(size - 10, size)
            fill(size - 10 - int.from_bytes(memory[size - 10 : size - 6], "little"), size)
            # Two messages, schema and batch: a mark, the length (4 bytes each), then the content.
            start = 8
            for _ in range(2):
                fill(start, start + 8)
                end = start + 8 + int.from_bytes(memory[start + 4 : start + 8], "little")
                fill(start, end)
                start = end
            whole = pa.py_buffer(memory)
            batch = pa.ipc.open_file(whole).get_batch(0)
            spans: list[list[int]] = []
            for column in batch.columns:
                buffers = (
                    column.buffers()[:-1] if column.type == self.cell_type else column.buffers()
                )
                spans += [
                    [b.address - whole.address, b.address - whole.address + b.size]
                    for b in buffers
                    if b
                ]
            joined: list[list[int]] = []
            for start, stop in sorted(spans):
                if joined and start - joined[-1][1] < MERGE_GAP:
                    joined[-1][1] = max(stop, joined[-1][1])
                else:
                    joined.append([start, stop])
            parallel_map(lambda span: fill(*span), joined)
            batch.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
            return batch, whole.address
        except AmodalError:
            raise
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise AmodalError(
                f"{self.path} is no complete shard: {error}. Copy it anew, or pack anew."
            ) from error

    def cell(self, i: int, column: str) -> Cell:
        array = self._batch.column(column)
        if array.type != self.cell_type or not array[i].is_valid:
            return array[i].as_py()
        offsets, content = array.buffers()[-2:]
        start, stop = np.frombuffer(offsets, np.int64, 2, 8 * i).tolist()
        first = content.address - self._index[1]
        return {
            "kind": array.field("kind")[i].as_py(),
            "data": self.path.read(first + start, first + stop),
        }

    def cells(self, column: str) -> list[Cell]:
        return parallel_map(
            lambda i: self.cell(i, column),
            range(self.rows),
            self._batch.column(column).type == self.cell_type,
        )

    def iterate(self, column: str) -> Iterator[Cell]:
        return (self.cell(i, column) for i in range(self.rows))

    def present(self, column: str) -> np.ndarray:
        valid = self._batch.column(column).is_valid()
        return np.asarray(valid.to_numpy(zero_copy_only=False))
