"""What the data itself says of each record, to colour a map by: the cells of a table, the length of a text, how bright a picture is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import unknown
from amodal.data import Dataset
from amodal.modalities import BadValue, Modality, name_of
from amodal.modalities.table import mostly_numbers, number

LOOKED_AT = 200
"""Cells from which is told what an undescribed column holds."""
NAMED = 40
"""Characters up to which a cell can be the name of a class."""

Fact = Callable[[np.ndarray], float | str | None]
"""A decoded value -> a number, a class, or None where it is missing."""


class Facts:
    """names: `FIELD.WHAT` of what can be told of each record, and the names of columns that are neither a field nor a label -> "number"
    or "classes"."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.place = {key: i for i, key in enumerate(dataset.keys)}
        self.of: dict[str, tuple[str, Fact]] = {}
        self.names: dict[str, str] = {}
        for field, modality in dataset.fields.items():
            for what, (kind, fact) in facts_of(modality).items():
                self.of[f"{field}.{what}"] = field, fact
                self.names[f"{field}.{what}"] = kind
        self.columns = {name: kind for name in _undescribed(dataset) if (kind := _kind(dataset, name))}
        self.names |= {name: kind for name, kind in self.columns.items() if name not in self.names}

    def values(self, name: str, keys: Sequence[str]) -> np.ndarray:
        """(n,) float64 with NaN, or objects with None, of the records with these keys; missing as well where a record is not in the data
        or cannot be read. Raises AmodalError for a name that is none."""
        if name not in self.names:
            raise unknown("fact of this data", name, self.names)
        found = [self._value(name, self.place.get(key, -1)) for key in keys]
        if self.names[name] == "number":
            return np.array([np.nan if v is None else v for v in found], dtype=np.float64)
        made = np.full(len(found), None, dtype=object)
        made[:] = found
        return made

    def _value(self, name: str, i: int) -> float | str | None:
        if i < 0:
            return None
        if name in self.of:
            field, fact = self.of[name]
            try:
                value = self.dataset.value(i, field)
            except BadValue:
                return None
            return None if value is None else fact(value)
        cell = self.dataset.reader.get(i, name)
        if cell is None or cell == "":
            return None
        if self.columns[name] == "classes":
            return str(cell)
        try:
            return number(cell)
        except ValueError:  # an odd one among numbers
            return None


def facts_of(modality: Modality) -> dict[str, tuple[str, Fact]]:
    """what -> ("number" or "classes", how to tell it from a decoded value)."""
    kind = name_of(modality)
    if kind == "table":
        return {
            column: ("classes", _cell(modality, column)) if column in modality.categories else ("number", _at(i))
            for i, column in enumerate(modality.columns)
        }
    if kind in ("text", "sequence"):
        return {"length": ("number", lambda value: float(len(modality.text(value))))}
    if kind == "image":
        return {
            "brightness": ("number", lambda value: float(value.mean())),
            "contrast": ("number", lambda value: float(value.std())),
        }
    if kind == "audio":
        return {
            "seconds": ("number", lambda value: len(value) / modality.rate),
            "loudness": ("number", lambda value: float(20 * np.log10(max(np.sqrt(np.square(value).mean()), 1e-6)))),
        }
    if kind == "series":
        means = {f"mean {c}": ("number", _mean(i)) for i, c in enumerate(modality.channels)}
        return {"steps": ("number", lambda value: float(len(value)))} | means
    if kind == "events":
        return {
            "events": ("number", lambda value: float(len(value))),
            "span": ("number", lambda value: float(value[-1, 0])),
        }
    return {}


def _at(i: int) -> Fact:
    return lambda value: float(value[i])


def _cell(modality, column: str) -> Fact:
    return lambda value: modality.cells(value).get(column)


def _mean(i: int) -> Fact:
    def mean(value: np.ndarray) -> float:
        there = value[:, i][~np.isnan(value[:, i])]
        return float(there.mean()) if len(there) else float("nan")

    return mean


def _undescribed(dataset: Dataset) -> list[str]:
    """Columns of the data that are neither of a field nor a label."""
    taken = {label.column or name for name, label in dataset.labels.items()} | {"key"}
    for columns in dataset.columns.values():
        taken |= set(columns) if isinstance(columns, tuple) else {columns}
    return [name for name in dataset.reader.columns if name not in taken]


def _kind(dataset: Dataset, column: str) -> str:
    """Is it "number" or "classes"; "" for what is neither, such as files and free text."""
    cells = [
        cell for i in range(min(len(dataset), LOOKED_AT)) if (cell := dataset.reader.get(i, column)) not in (None, "")
    ]
    if not cells or not all(isinstance(cell, (str, bool, int, float, np.number)) for cell in cells):
        return ""
    if mostly_numbers(cells):
        return "number"
    names = {str(cell) for cell in cells}
    few = 2 * len(names) <= len(cells) or len(names) <= 2
    return "classes" if few and max(map(len, names)) <= NAMED else ""
