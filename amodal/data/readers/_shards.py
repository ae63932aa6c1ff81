"""A shard of a pack in object storage: its index is read when it is opened, a value when it is
asked for, each by a range."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers.base import Lazy
from amodal.data.remote import Remote, together

NEAR = 64 * 2**10
"""Bytes between two parts of an index up to which they are read as one."""


class FarShard(Lazy):
    """A part of a table, as `Mapped`: one record batch. cells: the type of the columns that hold
    values, structs whose last buffer is their content."""

    def __init__(self, path: Remote, cells: pa.DataType):
        self.path, self.cell_type = path, cells
        self.__dict__["_index"] = (
            self._read_index()
        )  # not by its property, which one thread at a time may enter
        self.columns, self.rows = tuple(self._batch.schema.names), self._batch.num_rows

    @cached_property
    def _index(self) -> tuple[pa.RecordBatch, int]:
        return self._read_index()

    @property
    def _batch(self) -> pa.RecordBatch:
        return self._index[0]

    def _read_index(self) -> tuple[pa.RecordBatch, int]:
        """The batch over memory of the size of the file, of which only the index is there, and
        where that memory begins."""
        size = self.path.stat().st_size

        def fill(start: int, stop: int) -> None:
            if not 0 <= start <= stop <= size:
                raise ValueError(f"it points to byte {stop if start >= 0 else start:,} of {size:,}")
            memory[start:stop] = self.path.read(start, stop)

        try:
            memory = mmap.mmap(-1, max(size, 1))  # pages that nobody touches take no memory
            fill(size - 10, size)
            fill(size - 10 - int.from_bytes(memory[size - 10 : size - 6], "little"), size)
            at = 8
            for _ in (
                "schema",
                "batch",
            ):  # messages: a mark and their length, 4 bytes each, then as much
                fill(at, at + 8)
                end = at + 8 + int.from_bytes(memory[at + 4 : at + 8], "little")
                fill(at, end)
                at = end
            whole = pa.py_buffer(memory)
            batch = pa.ipc.open_file(whole).get_batch(0)
            places: list[list[int]] = []
            for column in batch.columns:
                buffers = (
                    column.buffers()[:-1] if column.type == self.cell_type else column.buffers()
                )
                places += [
                    [b.address - whole.address, b.address - whole.address + b.size]
                    for b in buffers
                    if b
                ]
            joined: list[list[int]] = []
            for start, stop in sorted(places):
                if joined and start - joined[-1][1] < NEAR:
                    joined[-1][1] = max(stop, joined[-1][1])
                else:
                    joined.append([start, stop])
            together(lambda place: fill(*place), joined)
            batch.validate(full=True)  # offsets and text, which Arrow otherwise takes on trust
            return batch, whole.address
        except AmodalError:
            raise
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise AmodalError(
                f"{self.path} is no whole shard: {error}. Copy it again or pack again."
            ) from error

    def cell(self, i: int, column: str):
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

    def cells(self, column: str) -> list:
        return together(
            lambda i: self.cell(i, column),
            range(self.rows),
            self._batch.column(column).type == self.cell_type,
        )

    def each(self, column: str) -> Iterator:
        return (self.cell(i, column) for i in range(self.rows))

    def present(self, column: str) -> np.ndarray:
        return self._batch.column(column).is_valid().to_numpy(zero_copy_only=False)
