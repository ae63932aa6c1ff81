"""A context variable that has a value for the time of a `with` block.

Context variables let many modules between a setting and its use go without an argument for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def within(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Within it the variable has this value, and afterwards, even after an error, its old one."""
    before = variable.set(value)
    try:
        yield
    finally:
        variable.reset(before)
