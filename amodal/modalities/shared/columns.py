"""Numeric columns from files, arrays and lists."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.csv

from amodal.core.regular_file import regular
from amodal.modalities.shared.base import BadValue, Raw, listed
from amodal.modalities.shared.cells import is_date, is_missing, number
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes

TIME_COLUMNS = ("time", "timestamp", "seconds", "t", "date", "datetime", "index")
"""Names of a column of times; it is no channel."""

WRONG_ROW = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")

MAX_COLUMNS = 2**14
"""Of a text table; arrays may have more."""

Columns = dict[str, np.ndarray] | np.ndarray


def read(raw: Raw) -> Columns:
    """Columns by name, or an array whose columns have no names.

    Args:
        raw: a path, bytes, an array, lists, or a dict of lists.

    Raises:
        BadValue: it is none of them, or channels differ in length.
    """
    if isinstance(raw, (Path, str, bytes)):
        tabs = not isinstance(raw, bytes) and Path(raw).suffix.lower() == ".tsv"
        data = read_bytes(raw)
        raw = load_numpy(data) if is_numpy(data) else _from_csv(data, "\t" if tabs else None)
    if isinstance(raw, Mapping):
        columns = {str(name): np.atleast_1d(_array(column)) for name, column in raw.items()}
        if len({c.shape for c in columns.values()}) > 1 or any(
            c.ndim != 1 for c in columns.values()
        ):
            shapes = (f"{n}: {len(c) if c.ndim == 1 else c.shape}" for n, c in columns.items())
            raise BadValue(f"channels of different length ({listed(shapes)})")
        return columns
    if isinstance(raw, (np.ndarray, list, tuple)):
        array = _array(raw)
        if not array.ndim:
            raise BadValue("a single number is not a series")
        return {name: array[name] for name in array.dtype.names} if array.dtype.names else array
    wanted = "a path, bytes, an array, lists, or a dict of lists"
    raise BadValue(f"a {type(raw).__name__} is not a series: expected {wanted}")


def array_shape(raw: Raw) -> tuple[int, int] | None:
    """The shape of a .npy file of two dimensions, from its header; None for anything else."""
    if not isinstance(raw, Path) or raw.suffix.lower() != ".npy":
        return None
    try:
        array = np.load(regular(raw), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return (array.shape[0], array.shape[1]) if array.ndim == 2 else None


def _array(raw: Any) -> np.ndarray:
    try:
        return np.asarray(raw)
    except ValueError:
        raise BadValue("steps with different numbers of channels") from None


def _from_csv(data: bytes, delimiter: str | None) -> Columns:
    """A table with a header, or without one if its first line is all numbers."""
    try:
        head = data.decode("utf-8-sig").lstrip().partition("\n")[0].strip()
    except UnicodeDecodeError as error:
        raise BadValue(
            f"neither a numpy file nor a table of text: {error.reason} at byte {error.start}"
        ) from None
    if not head:
        raise BadValue("not a table of text: there is nothing in it")
    delimiter = delimiter or max(",;\t", key=head.count)
    if head.count(delimiter) >= MAX_COLUMNS:  # each costs 10 kB, however short its name
        raise BadValue(f"{head.count(delimiter) + 1:,} columns, more than {MAX_COLUMNS:,}")
    headerless = all(_is_number(cell) for cell in head.split(delimiter))
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(use_threads=False, autogenerate_column_names=headerless),
            pyarrow.csv.ParseOptions(delimiter=delimiter),
        )
    except pyarrow.ArrowInvalid as error:
        raise BadValue(f"not a table of text: {_mistake(str(error), data)}") from None
    columns = {
        name.strip(): column.to_numpy() for name, column in zip(table.column_names, table.columns)
    }
    if len(columns) < len(table.column_names):
        raise BadValue(
            "more than one column is called the same: "
            f"{listed(name.strip() or '(empty)' for name in table.column_names)}"
        )
    return np.stack([numbers(c, n) for n, c in columns.items()], 1) if headerless else columns


def _mistake(text: str, data: bytes) -> str:
    """What is wrong with a table that pyarrow says this of, in words."""
    if row := WRONG_ROW.match(text):
        line, expected, count = (f"{int(n):,}" for n in row.groups())
        return f"line {line} has {count} cells, and the first line {expected}"
    if "Empty CSV" in text:  # what it calls a table without the end of a first line
        quoted = data.count(b'"') % 2
        return "a quote is not closed" if quoted else "one line alone, which ends without a row"
    return text.splitlines()[0].removeprefix("CSV parse error: ")


def _is_number(cell: str) -> bool:
    try:
        return bool(cell.strip()) and float(cell) is not None
    except ValueError:
        return False


def numbers(array: np.ndarray, name: str) -> np.ndarray:
    """float32 of the same shape, NaN for missing and infinite cells.

    Args:
        array: cells.
        name: of the column, for the message.

    Raises:
        BadValue: a cell is no number.
    """
    try:
        if array.dtype.kind not in "biuf":
            array = np.array([number(cell) for cell in array.ravel()]).reshape(array.shape)
    except ValueError as error:
        raise BadValue(f"{name}: {error}") from None
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def num_steps(table: Mapping[str, np.ndarray] | np.ndarray) -> int:
    """Number of steps."""
    return len(next(iter(table.values()), ())) if isinstance(table, Mapping) else len(table)


def numeric_names(tables: Sequence[Columns]) -> tuple[str, ...]:
    """The columns that are numeric in every table that has them, without times and dates.

    Names are made up where there are none.

    Raises:
        BadValue: there is no numeric column.
    """
    named = [t for t in tables if isinstance(t, dict)]
    if not named:
        array = cast(np.ndarray, tables[0])
        count = array.shape[1] if array.ndim == 2 else 1
        return tuple(f"c{i}" for i in range(count)) if count > 1 else ("value",)
    numeric = []
    for name in dict.fromkeys(name for table in named for name in table):
        try:
            cells = np.concatenate([numbers(t[name], name) for t in named if name in t])
        except BadValue:
            continue
        dates = any(_holds_dates(t[name]) for t in named if name in t)
        if name.lower() not in TIME_COLUMNS and not dates and np.isfinite(cells).any():
            numeric.append(name)
    if not numeric:
        raise BadValue(f"no column of numbers among {listed(named[0])}")
    return tuple(numeric)


def _holds_dates(array: np.ndarray) -> bool:
    if array.dtype.kind in "biuf":
        return False
    return is_date(next((cell for cell in array.ravel() if not is_missing(cell)), None))


def rate_of(table: Mapping[str, np.ndarray]) -> float:
    """Steps a second from a column of seconds, 0 without one."""
    for name in table:
        times = table[name]
        if name.lower() in TIME_COLUMNS[:4] and times.dtype.kind in "iuf" and len(times) > 1:
            step = float(np.median(np.diff(times.astype(np.float64))))
            return 1 / step if step > 0 else 0.0
    return 0.0
