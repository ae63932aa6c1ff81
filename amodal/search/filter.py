"""Filters on the labels of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.argument_types import check_type, has_names

Where = Mapping[str, object] | Callable[[dict[str, np.ndarray]], np.ndarray]
"""label -> what it must be, or a function of the labels (name -> (N,) array) that gives (N,) bool.

What a category must be: a value or a list of them. What a number must be: a value, (low, high), or
text: "3", "3..5", "3..", "..5".
"""


class Labels(dict[str, np.ndarray]):
    """label -> (N,) values. Caches the codes of categories: to compare the text of all records
    takes a hundred times as long."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays)
        self._codes: dict[str, tuple[dict[str, int], np.ndarray]] = {}

    def codes(self, name: str) -> tuple[dict[str, int], np.ndarray]:
        """value -> code, and the (N,) int32 code of each record, -1 where it has none."""
        if name not in self._codes:
            number: dict[str, int] = {}
            each = [-1 if v is None else number.setdefault(v, len(number)) for v in self[name]]
            self._codes[name] = number, np.array(each, dtype=np.int32)
        return self._codes[name]


def allowed(where: Where, labels: Labels, count: int) -> np.ndarray:
    """Apply a filter.

    Args:
        where: See `Where`.
        labels: Of `count` records.
        count: Of records.

    Returns:
        (count,) bool.

    Raises:
        AmodalError: For unknown labels and values, with the nearest ones.
    """
    if callable(where):
        mask = np.asarray(where(labels))
        if mask.shape != (count,) or mask.dtype != bool:
            raise AmodalError(
                f"a filter function must give {count} true or false values, got shape "
                f"{mask.shape} of "
                f"{mask.dtype}"
            )
        return mask
    check_type("where", where, has_names, "a dict of label -> value, or a function")
    mask = np.ones(count, dtype=bool)
    for name, wanted in where.items():
        if name not in labels:
            raise unknown("label in this index", name, labels)
        number = labels[name].dtype.kind == "f"
        mask &= _number(name, labels[name], wanted) if number else _category(name, labels, wanted)
    return mask


def _category(name: str, labels: Labels, wanted: object) -> np.ndarray:
    code_of, codes = labels.codes(name)
    passes = np.zeros(
        len(code_of) + 1, dtype=bool
    )  # the last stays false: the code -1 points to it
    names = sorted(set(choices(wanted)))
    for choice in names:
        if choice not in code_of:
            raise unknown(f"value of {name}", choice, code_of)
        passes[code_of[choice]] = True
    if len(names) == 1:  # to compare is five times as fast as to look up
        return np.asarray(codes == code_of[names[0]])
    return np.asarray(passes[codes])


def _number(name: str, values: np.ndarray, wanted: object) -> np.ndarray:
    low, high = bounds(name, wanted)
    return np.asarray((values >= low) & (values <= high))


def choices(wanted: object) -> list[str]:
    """The values of a category that a filter lets through."""
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return [str(w) for w in wanted]
    return [str(wanted)]


def bounds(name: str, wanted: object) -> tuple[float, float]:
    """Lowest and highest value of a number that a filter lets through."""
    try:
        if isinstance(wanted, str) and ".." in wanted:
            low, high = (
                float(part) if part.strip() else bound
                for part, bound in zip(wanted.split("..", 1), (-np.inf, np.inf))
            )
        elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
            low, high = map(float, wanted)
        else:
            low = high = float(cast("float", wanted))
    except (TypeError, ValueError):
        raise AmodalError(
            f"the label {name!r} is a number: give one, or a range such as 3..5, instead of "
            f"{wanted!r}"
        ) from None
    return low, high
