"""The rows of a report."""

from __future__ import annotations

import numbers
from typing import Any

from amodal.core import AmodalError
from amodal.errors import described

Row = dict[str, Any]
"""One line of a result: `source`, `metric`, `value`, `chance`, `n` and what a protocol adds.

Texts in a row say what was measured, numbers are what was found. Rows are written to JSON as they
are, so their values are texts, numbers, booleans and lists of these.
"""

Spec = dict[str, Any]
"""Everything that decides a result's numbers, as JSON."""

NEEDED = {"source": str, "metric": str, "value": numbers.Real, "n": numbers.Integral}
"""What every row has, and its type."""


def check_row(row: object, shown: str) -> None:
    """Check what a protocol measured.

    Args:
        row: A row.
        shown: Which one, for the message.

    Raises:
        AmodalError: If it is no row.
    """
    if not isinstance(row, dict):
        raise AmodalError(f"{shown} is {type(row).__name__}, and a dict is needed")
    for name, kind in NEEDED.items():
        if name not in row:
            raise AmodalError(
                f"{shown} has no {name!r}, only {', '.join(map(repr, row)) or 'nothing'}; a row "
                f"needs {', '.join(map(repr, NEEDED))}, and may have 'chance', 'target' and others"
            )
        value = row[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "a text" if kind is str else "a number"
            raise AmodalError(f"{name!r} of {shown} is {described(value)}, and must be {wanted}")
