"""A property of records, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amodal.evaluate.labels import is_number


@dataclass(frozen=True)
class Facet:
    """A property of N records.

    Args:
        values: (N,) float64 with NaN, or int64 codes with -1 where it is not known.
        names: Of the codes, in the order of the alphabet; None for numbers.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None

    @property
    def known(self) -> np.ndarray:
        """(N,) bool."""
        return np.isfinite(self.values) if self.names is None else self.values >= 0

    @property
    def ranks(self) -> np.ndarray:
        """(N,) float64 by which records are sorted, NaN where it is not known."""
        return np.where(self.known, self.values, np.nan)

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest number that is known; zeros where none is."""
        known = self.values[self.known]
        return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)

    def sizes(self, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How many records have each class; numbers: of those that count."""
        known = self.values[numbers][self.known[numbers]]
        return np.bincount(known, minlength=len(self.names or ()))

    @property
    def commonest(self) -> list[int]:
        """The classes, those of most records first."""
        sizes = self.sizes()
        return sorted(range(len(sizes)), key=lambda i: -sizes[i])

    def at(self, number: int) -> float | str | None:
        """The value of a record."""
        if not self.known[number]:
            return None
        value = self.values[number]
        return float(value) if self.names is None else self.names[int(value)]


def facet_of(values: np.ndarray) -> Facet:
    """Of (N,) labels, or an attribute, as data has them: str with None, or float64 with NaN."""
    if is_number(values):
        return Facet(values.astype(np.float64))
    names = tuple(sorted({str(v) for v in values if v is not None}))
    code = {name: i for i, name in enumerate(names)}
    return Facet(np.array([-1 if v is None else code[str(v)] for v in values], np.int64), names)
