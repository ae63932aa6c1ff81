"""Counts of missing values in the footer of a Parquet file.

pyarrow has them too, but ends the process on a footer with flipped bits: its accessor of statistics
lets no exception of C++ through. This reads what it needs of Thrift's compact protocol, in which
the footer is written (parquet.thrift and thrift-compact-protocol.md, Apache Software Foundation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import IO

import numpy as np

MAGIC = b"PAR1"
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
ROW_GROUPS = 4  # of FileMetaData
COLUMNS = 1  # of RowGroup
META_DATA = 3  # of ColumnChunk
PATH, STATISTICS = 3, 12  # of ColumnMetaData
NULL_COUNT = 3  # of Statistics
MAX_DEPTH = 32


class _Reader:
    """Thrift's compact protocol, as far as a footer uses it; ValueError where it is damaged."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def byte(self) -> int:
        if self.position >= len(self.data):
            raise ValueError("the footer ends early")
        self.position += 1
        return self.data[self.position - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 70:
                raise ValueError("a number of the footer has no end")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        if size > len(self.data) - self.position:
            raise ValueError("a text of the footer is longer than it")
        self.position += size
        return self.data[self.position - size : self.position]

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; whoever iterates reads or skips its value."""
        number = 0
        while head := self.byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self.integer()
            yield number, kind

    def items(self) -> Iterator[int]:
        """The type of each item of a list, which whoever iterates reads or skips."""
        head = self.byte()
        size, kind = head >> 4, head & 15
        size = self.varint() if size == 15 else size
        if size > len(self.data) - self.position:
            raise ValueError("a list of the footer is longer than it")
        for _ in range(size):
            yield kind

    def skip(self, kind: int, in_list: bool = False, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > MAX_DEPTH:
            raise ValueError("the footer is nested too deep")
        if kind in (TRUE, FALSE):  # the type of a field says which; an item of a list is a byte
            self.position += in_list
        elif kind == BYTE:
            self.position += 1
        elif kind in (I16, I32, I64):
            self.varint()
        elif kind == DOUBLE:
            self.position += 8
        elif kind == BINARY:
            self.binary()
        elif kind in (LIST, SET):
            for item in self.items():
                self.skip(item, True, depth + 1)
        elif kind == STRUCT:
            for _, field in self.fields():
                self.skip(field, False, depth + 1)
        else:  # a footer has no map
            raise ValueError(f"a value of the footer has the type {kind}")


Handlers = dict[int, tuple[int, Callable[[_Reader], None]]]
"""Number of a field -> its type, and what reads it."""


def _read(reader: _Reader, handlers: Handlers) -> None:
    """Read a struct, and skip the fields that nobody asks for."""
    for number, kind in reader.fields():
        expected, read = handlers.get(number, (0, None))
        if read is not None and kind == expected:
            read(reader)
        else:
            reader.skip(kind)


def null_counts(stream: IO[bytes] | RawIOBase) -> list[dict[str, int]]:
    """For each row group column -> its missing values, without columns that do not say it.

    Args:
        stream: The file. A nested column is called by its path, with dots.

    Raises:
        ValueError: The footer is damaged.
    """
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8) or b""
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or tail[4:] != MAGIC or length > size - 8:
        raise ValueError("no footer of a Parquet file")
    stream.seek(size - 8 - length)
    reader, groups = _Reader(stream.read(length) or b""), list[dict[str, int]]()

    def row_groups(reader: _Reader) -> None:
        for _ in reader.items():
            groups.append({})
            _read(reader, {COLUMNS: (LIST, columns)})

    def columns(reader: _Reader) -> None:
        for _ in reader.items():
            _read(reader, {META_DATA: (STRUCT, meta_data)})

    def meta_data(reader: _Reader) -> None:
        path, counts = list[str](), list[int]()
        _read(
            reader,
            {
                PATH: (LIST, lambda r: path.extend(r.binary().decode() for _ in r.items())),
                STATISTICS: (
                    STRUCT,
                    lambda r: _read(r, {NULL_COUNT: (I64, lambda r: counts.append(r.integer()))}),
                ),
            },
        )
        if counts:
            groups[-1][".".join(path)] = counts[-1]

    _read(reader, {ROW_GROUPS: (LIST, row_groups)})
    return groups


def all_or_none(counts: dict[str, int], column: str, rows: int) -> np.ndarray | None:
    """(rows,) bool: which have a value, where the counts of a row group say it of all."""
    found = counts.get(column)
    return np.full(rows, found == 0) if found in (0, rows) else None
