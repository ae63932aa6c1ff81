"""Samples that a modality is inferred from, some of which may be damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from amodal.modalities.shared.finite import BadValue

Sample = TypeVar("Sample")
Value = TypeVar("Value")


def read_each(samples: Iterable[Sample], read: Callable[[Sample], Value]) -> list[Value]:
    """What `read` makes of the samples that it can read.

    Raises:
        BadValue: it reads none; it is that of the first.
    """
    values: list[Value] = []
    first: BadValue | None = None
    for sample in samples:
        try:
            values.append(read(sample))
        except BadValue as error:
            first = first or error
    if not values:
        raise first or BadValue("no samples to look at")
    return values
