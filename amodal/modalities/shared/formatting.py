"""Values in short lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence


def shortened(text: str, length: int = 72) -> str:
    """The text, cut to `length` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def listed(parts: Iterable[str], length: int = 72) -> str:
    """As many of `parts` as fit in a line, separated by commas."""
    return shortened(", ".join(parts), length)


def format_range(numbers: Iterable[float], unit: str, form: str = ",") -> str:
    """`3 … 40 steps`: the minimum and maximum of the numbers; "" without any."""
    numbers = list(numbers)
    if not numbers:
        return ""
    low, high = format(min(numbers), form), format(max(numbers), form)
    return f"{low} {unit}" if low == high else f"{low} … {high} {unit}"


def first_names(names: Sequence[str], most: int = 4) -> str:
    """The first `most` names of a list."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def not_a_row(cells: int, columns: Sequence[str]) -> str:
    """Why a number of cells is no row of these columns, with the forms that one has."""
    form = json.dumps({columns[0]: 1.5}, ensure_ascii=False)
    return (
        f"{cells} cell{'s' * (cells != 1)} for {len(columns)} columns ({listed(columns)}); a row "
        f"is a list with a cell for each, or cells by the names of columns, such as {form}"
    )


JSON_MISTAKES = {
    "Expecting value": "a value is expected",
    "Expecting property name enclosed in double quotes": "a name in double quotes is expected",
    "Expecting ',' delimiter": "a comma is expected",
    "Expecting ':' delimiter": "a colon is expected",
    "Extra data": "there is more after its end",
    "Unterminated string starting at": "a text begins that is not closed",
    "Invalid control character at": "a line break, or the like, stands in a text",
    "Invalid \\escape": "a backslash stands before a character that needs none",
    "Illegal trailing comma before end of object": "a comma stands before the end",
    "Illegal trailing comma before end of array": "a comma stands before the end",
}
"""What Python's parser of JSON says -> the same for a person."""


def not_json(error: Exception) -> str:
    """What is wrong with JSON, in words: `not JSON: a comma is expected (line 2, column 5)`."""
    if isinstance(error, UnicodeDecodeError):
        return f"not JSON: it is no text in UTF-8 (byte {error.start:,})"
    if isinstance(error, RecursionError):
        return "not JSON: brackets in brackets, too deep"
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if not error.doc.strip():
        return "not JSON: there is nothing in it"
    mistake = JSON_MISTAKES.get(error.msg, error.msg)
    return f"not JSON: {mistake} (line {error.lineno:,}, column {error.colno:,})"
