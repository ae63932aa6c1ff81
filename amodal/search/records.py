"""What an index stores of a record beside its vectors: a stamp of its content, and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.data import Dataset


def stamp_of(dataset: Dataset, i: int, labels: dict[str, np.ndarray]) -> str:
    """A hash of a record's content and labels. Of a file it takes size and modification time, so
    that the file need not be read."""
    digest = hashlib.blake2b(digest_size=12)
    for field in dataset.fields:
        digest.update(f"\0{field}\0".encode())
        if i in dataset.reader.damaged:
            digest.update(dataset.reader.damaged[i].encode())
            continue
        raw = dataset.raw(i, field)
        if isinstance(raw, Path):
            try:
                state = raw.stat()
                stamp = f"{raw.name} {state.st_size} {state.st_mtime_ns}"
                # a file name may have bytes that are no text
                digest.update(stamp.encode("utf-8", "surrogatepass"))
            except OSError:
                digest.update(b"unreadable")
        elif isinstance(raw, (bytes, bytearray, memoryview)):
            digest.update(raw)
        elif isinstance(raw, np.ndarray):
            digest.update(f"{raw.dtype}{raw.shape}".encode() + np.ascontiguousarray(raw).tobytes())
        else:
            digest.update(repr(raw).encode("utf-8", "surrogatepass"))
    digest.update(
        repr([(name, plain(values[i])) for name, values in labels.items()]).encode(
            "utf-8", "surrogatepass"
        )
    )
    return digest.hexdigest()


def plain(value: str | float | None) -> str | float | None:
    """A label for JSON: text, a number, or None where missing."""
    if value is None or isinstance(value, str):
        return value
    return float(value) if np.isfinite(value) else None


def in_rows(
    labels: Mapping[str, Sequence[str | float | None] | np.ndarray], count: int
) -> list[dict[str, str | float | None]]:
    """The labels of each of `count` records, for JSON. Raises AmodalError for a label that has not
    as many values."""
    columns: list[list[str | float | None]] = []
    for name, values in labels.items():
        if len(values) != count:
            raise AmodalError(
                f"the label {name!r} has {len(values)} values for {count} records; give one for "
                "each "
                "record"
            )
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            # All at once takes a fifth of the time.
            column = values.astype(object)
            column[~np.isfinite(values)] = None
            columns.append(column.tolist())
        else:
            columns.append([plain(v) for v in values])
    if not columns:
        return [{} for _ in range(count)]
    return [dict(zip(labels, row)) for row in zip(*columns)]


def column_of(values: list[str | float | None]) -> np.ndarray:
    """Labels as a Dataset has them: (N,) str objects with None, or float64 with NaN."""
    if any(isinstance(v, str) for v in values) or all(v is None for v in values):
        column = np.full(len(values), None, dtype=object)
        column[:] = values
        return column
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
