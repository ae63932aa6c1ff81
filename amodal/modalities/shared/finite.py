"""Numbers that training can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from amodal.core import AmodalError


class BadValue(AmodalError):
    """A value that cannot be decoded. The text is the reason, short enough for a table."""


class Finite:
    """Decodes a value and looks at its numbers."""

    largest: ClassVar[float] = float(np.finfo(np.float32).max)
    """The largest number of a decoded value, either sign."""

    def decode(self, raw: Any) -> np.ndarray:
        """See `Modality.decode`."""
        raise NotImplementedError

    def decode_finite(self, raw: Any) -> np.ndarray:
        """One raw value in canonical form, after a check that training can take all of its numbers.

        Raises:
            BadValue: it cannot be decoded, or a number is larger than `largest`. NaN is allowed: it
                stands for what is missing.
        """
        return self.bounded(self.decode(raw))

    def is_one(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape is one value, and not values one after the other.

        Args:
            shape: of the array.
        """
        return False

    def bounded(self, value: np.ndarray) -> np.ndarray:
        """The numbers, after a check that none is larger than `largest`; else BadValue."""
        if value.dtype.kind == "f" and value.size:
            # the extremes first: they need no memory of the value's size
            with np.errstate(invalid="ignore"):
                low, high = np.fmin.reduce(value, axis=None), np.fmax.reduce(value, axis=None)
            if high > self.largest or low < -self.largest:
                index = np.argwhere(np.abs(value) > self.largest)[0].tolist()
                raise BadValue(
                    f"{self.place(tuple(index))} is {value[tuple(index)]:.3g}; numbers are at most "
                    f"{self.largest:.3g} here"
                )
        return value

    def place(self, index: tuple[int, ...]) -> str:
        """What a number of a decoded value is, in words.

        Args:
            index: of the number.
        """
        return f"the number at {', '.join(map(str, index))}"
