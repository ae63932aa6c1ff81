"""Values in short lines of text."""

from __future__ import annotations

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
