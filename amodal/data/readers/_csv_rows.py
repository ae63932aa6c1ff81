"""The rows of a CSV file, and those that a quote swallows which has no end of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OPEN = "unexpected end of data"
"""What Python's reader says where a text ends within quotes."""


@dataclass(frozen=True)
class CsvRow:
    """A row.

    Attributes:
        line: Of the file on which it begins, from 1.
        cells: Their texts; of a row that cannot be read one cell, the line as it is.
        reason: Why it cannot be read; "" otherwise.
    """

    line: int
    cells: list[str]
    reason: str = ""


def rows_of(lines: Sequence[str], delimiter: str, first: int = 0) -> list[CsvRow]:
    """All rows that are not empty.

    A cell may have more lines than one, within quotes. But where a quote is opened that has no end
    of its own, Python's reader goes on to the next quote of the file or to its end, and the rows
    between become one cell without a word. Such a row is one that cannot be read, and those after
    it are read.

    Args:
        lines: Of the file, with the marks at their ends.
        delimiter: Between cells.
        first: How many lines are no rows.

    Raises:
        csv.Error: It is no CSV.
    """
    found: list[CsvRow] = []
    begin: int | None = first
    while begin is not None:
        begin = _read(lines, delimiter, begin, found)
    return found


def _read(lines: Sequence[str], delimiter: str, begin: int, rows: list[CsvRow]) -> int | None:
    """Add to the rows. Returns the line at which to go on, None at the end."""
    start, following = begin, (lines[i] for i in range(begin, len(lines)))
    reader = csv.reader(following, delimiter=delimiter)
    for cells in reader:
        end = start + reader.line_num
        part, reason = lines[begin:end], ""
        problem = _problem(part, delimiter) if len(part) > 1 or end == len(lines) else ""
        if problem and len(part) > 1 and rows:
            width = len(rows[0].cells)
            if _are_rows(part[1:], delimiter, width) and (width > 1 or problem == OPEN):
                reason = "a quote begins in it and does not end"
                rows.append(CsvRow(begin + 1, [part[0].rstrip("\n")], reason))
                return begin + 1
        if problem == OPEN:
            cells, reason = ["".join(part).rstrip("\n")], "the file ends within a quote"
        if cells:
            rows.append(CsvRow(begin + 1, cells, reason))
        begin = end
    return None


def _problem(part: Sequence[str], delimiter: str) -> str:
    """What is wrong with the quotes of a row; "" for none."""
    try:
        for _ in csv.reader(part, delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        return str(error)
    return ""


def _are_rows(lines: Sequence[str], delimiter: str, width: int) -> bool:
    """Whether at least half of these lines are rows of so many cells by themselves."""
    counts = [len(cells) for line in lines for cells in _cells(line, delimiter)]
    return bool(counts) and 2 * counts.count(width) >= len(counts)


def _cells(line: str, delimiter: str) -> Iterator[list[str]]:
    return (cells for cells in csv.reader([line], delimiter=delimiter) if cells)


def comments_before_names(lines: Sequence[str], delimiter: str) -> int:
    """How many lines that begin with # stand before the line of names.

    The names may begin with # themselves: then they are as many as the cells of the next line.
    """
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    width = _width(lines[count], delimiter) if count else 0
    named = (i for i in range(count) if _width(lines[i], delimiter) == width)
    return next(named, count)


def _width(line: str, delimiter: str) -> int:
    return len(next(_cells(line, delimiter), []))
