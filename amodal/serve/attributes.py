"""What the data itself says of each record, to colour a map by: the cells of a table, the length of
a text, how bright a picture is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import unknown
from amodal.data import Dataset
from amodal.modalities import BadValue
from amodal.modalities.shared.base import Attribute
from amodal.modalities.shared.cells import mostly_numbers, number

LOOKED_AT = 200
"""Cells from which is told what an undescribed column holds."""
NAMED = 40
"""Characters up to which a cell can be the name of a class."""


class Attributes:
    """names: `FIELD.WHAT` of what can be told of each record, and the names of columns that are
    neither a field nor a label -> "number" or "classes"."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.place = {key: i for i, key in enumerate(dataset.keys)}
        self.of: dict[str, tuple[str, Attribute]] = {}
        self.names: dict[str, str] = {}
        for field, modality in dataset.fields.items():
            for what, attribute in modality.attributes().items():
                self.of[f"{field}.{what}"] = field, attribute
                self.names[f"{field}.{what}"] = attribute.scale
        self.columns = {
            name: kind for name in _undescribed(dataset) if (kind := _kind(dataset, name))
        }
        self.names |= {name: kind for name, kind in self.columns.items() if name not in self.names}

    def values(self, name: str, keys: Sequence[str]) -> np.ndarray:
        """(n,) float64 with NaN, or objects with None, of the records with these keys; missing as
        well where a record is not in the data or cannot be read. Raises AmodalError for a name that
        is none."""
        if name not in self.names:
            raise unknown("attribute of this data", name, self.names)
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
            field, attribute = self.of[name]
            try:
                value = self.dataset.value(i, field)
            except BadValue:
                return None
            return None if value is None else attribute.read(value)
        cell = self.dataset.reader.get(i, name)
        if cell is None or cell == "":
            return None
        if self.columns[name] == "classes":
            return str(cell)
        try:
            return number(cell)
        except ValueError:  # an odd one among numbers
            return None


def _undescribed(dataset: Dataset) -> list[str]:
    """Columns of the data that are neither of a field nor a label."""
    taken = {label.column or name for name, label in dataset.labels.items()} | {"key"}
    for columns in dataset.columns.values():
        taken |= set(columns) if isinstance(columns, tuple) else {columns}
    return [name for name in dataset.reader.columns if name not in taken]


def _kind(dataset: Dataset, column: str) -> str:
    """Is it "number" or "classes"; "" for what is neither, such as files and free text."""
    cells = [
        cell
        for i in range(min(len(dataset), LOOKED_AT))
        if (cell := dataset.reader.get(i, column)) not in (None, "")
    ]
    if not cells or not all(isinstance(cell, (str, bool, int, float, np.number)) for cell in cells):
        return ""
    if mostly_numbers(cells):
        return "number"
    names = {str(cell) for cell in cells}
    few = 2 * len(names) <= len(cells) or len(names) <= 2
    return "classes" if few and max(map(len, names)) <= NAMED else ""
