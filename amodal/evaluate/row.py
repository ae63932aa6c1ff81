"""The rows of a report."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
"""One line of a result: `source`, `metric`, `value`, `chance`, `n` and what a protocol adds.

Texts in a row say what was measured, numbers are what was found. Rows are written to JSON as they
are, so their values are texts, numbers, booleans and lists of these.
"""

Spec = dict[str, Any]
"""Everything that decides a result's numbers, as JSON."""
