"""Cells of tables: what is missing, a number or a date."""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""ISO 8601, as far as it cannot be taken for something else: 20240131 is a number."""
OTHER_DATE = re.compile(
    r"(?:(?P<d>\d\d)\.(?P<m>\d\d)\.(?P<y>\d{4})|(?P<Y>\d{4})/(?P<M>\d{1,2})/(?P<D>\d{1,2}))"
    r"(?P<time>[T ]\d\d?:\d\d(:\d\d([.,]\d+)?)?)?"
)
"""31.03.2024 and 2024/03/31. 03/04/2024 is April or March, and 1.2.2024 may be a version."""


def is_missing(cell: Any) -> bool:
    """Whether a cell of a table holds no value."""
    if type(cell) is float:  # nearly all cells of most tables
        return not math.isfinite(cell)
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in {"", "na", "n/a", "nan", "null", "none", "-"}
    if isinstance(cell, (datetime.date, np.datetime64)):
        return bool(cell != cell)  # NaT; that of pandas calls itself a datetime
    return isinstance(cell, (float, np.floating)) and not np.isfinite(cell)


def plain(cell: Any) -> Any:
    """A cell of numpy as one of Python: a date as a `datetime`, NaT as None.

    `item` makes whole nanoseconds of a `datetime64[ns]`, which nobody would take for a date, and
    of a `timedelta64[ns]`.
    """
    if isinstance(cell, np.timedelta64):
        return None if np.isnat(cell) else cell / np.timedelta64(1, "s")
    if not isinstance(cell, np.datetime64):
        return cell.item() if isinstance(cell, np.generic) else cell
    # Years that Python does not have come back as whole seconds, which is what a date counts.
    second = cell.astype("datetime64[s]").item()
    return second if isinstance(second, int) else cell.astype("datetime64[us]").item()


def as_number(cell: Any) -> float:
    """A cell as a number: NaN where missing or infinite, dates as seconds since 1970 in UTC, times
    of a day as seconds since midnight, durations as seconds.

    A day counts from its midnight, and a time without a zone is one in UTC.

    Raises:
        ValueError: it is no number.
    """
    if is_missing(cell):
        return float("nan")
    cell = plain(cell)
    if isinstance(cell, datetime.date):
        midnight = datetime.time()
        moment = (
            cell
            if isinstance(cell, datetime.datetime)
            else datetime.datetime.combine(cell, midnight)
        )
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    if isinstance(cell, datetime.timedelta):
        return cell.total_seconds()
    if isinstance(cell, datetime.time):
        return cell.hour * 3600 + cell.minute * 60 + cell.second + cell.microsecond / 1e6
    try:
        number = float(cell)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except OverflowError:  # a whole number of more digits than a float has room for
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def moments(columns: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column of (n, C), NaN left out.

    Rounded to six digits, as they are written into files that people read. A constant column has
    deviation 1; one without any value also mean 0.
    """
    finite = np.isfinite(columns)
    count = np.maximum(finite.sum(0), 1)
    mean = np.where(finite, columns, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt((np.where(finite, columns - mean, 0).astype(np.float64) ** 2).sum(0) / count)
    return tuple(map(tidy, mean)), tuple(tidy(s) if s > 1e-12 else 1.0 for s in std)


def tidy(number: float) -> float:
    """A number rounded to six digits."""
    return float(f"{number:.6g}")


def number(cell: Any) -> float:
    """`as_number`, which also reads dates from text.

    Raises:
        ValueError: it is no number.
    """
    if type(cell) is float:  # nearly all cells of most tables
        return cell if math.isfinite(cell) else float("nan")
    if isinstance(cell, str) and (date := date_of(cell)) is not None:
        return as_number(date)
    return as_number(cell)


def date_of(text: str) -> datetime.datetime | None:
    """The date in a text, in ISO 8601 or another form that has one reading; None for none."""
    text = text.strip()
    if (other := OTHER_DATE.fullmatch(text)) is not None:
        day, month, year = (other[a] or other[b] for a, b in ("dD", "mM", "yY"))
        hours, colon, rest = (other["time"] or "")[1:].partition(":")
        time = f"T{hours:0>2}:{rest}" if colon else ""
        text = f"{year}-{month:0>2}-{day:0>2}{time}"
    elif not DATE.fullmatch(text):
        return None
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:  # the 31st of February
        return None


def is_date(cell: Any) -> bool:
    """Whether a cell is a date, or text with one; see `date_of`."""
    if isinstance(cell, (datetime.date, np.datetime64)):
        return not is_missing(cell)
    return isinstance(cell, str) and date_of(cell) is not None


def mostly_numbers(cells: Sequence[Any]) -> bool:
    """Whether more than half of the cells are numbers or dates.

    Text such as "3" may be a code and does not count.
    """
    certain = (
        isinstance(c, (numbers.Number, np.number)) and not isinstance(c, bool) or is_date(c)
        for c in cells
    )
    return 2 * sum(certain) > len(cells)


def is_numeric(cells: Sequence[Any]) -> bool:
    """Whether a column is numeric: all its cells parse as numbers, or most are numbers."""
    return all(map(_is_number, cells)) or mostly_numbers(cells)


def _is_number(cell: Any) -> bool:
    try:
        return not isinstance(cell, bool) and number(cell) is not None
    except ValueError:
        return False


def category(cell: Any) -> str:
    """The name of a category.

    3.0 is "3": a column of whole numbers with gaps comes back as floats.
    """
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
