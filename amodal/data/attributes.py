"""Attributes of records, by which a map is coloured and clusters are described: cells of a table,
the length of a text, the brightness of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import unknown
from amodal.data.dataset import Dataset
from amodal.modalities import BadValue
from amodal.modalities.shared.base import Attribute
from amodal.modalities.shared.cells import is_date, mostly_numbers, number

SAMPLE_SIZE = 200
"""Cells that decide what an undescribed column holds."""
MAX_NAME_LENGTH = 40
"""Characters up to which a cell can be the name of a class."""


class Attributes:
    """Attributes of the records of a dataset.

    Attributes:
        names: `FIELD.ATTRIBUTE`, and columns that are neither a field nor a label -> "number" or
            "classes".
        texts: `FIELD.ATTRIBUTE` of those that are text.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.row_of = {key: i for i, key in enumerate(dataset.keys)}
        self.of_fields: dict[str, tuple[str, Attribute]] = {}
        self.names: dict[str, str] = {}
        texts = list[str]()
        for field, modality in dataset.fields.items():
            for what, attribute in modality.attributes().items():
                name = f"{field}.{what}"
                self.of_fields[name] = field, attribute
                if attribute.scale == "words":
                    texts.append(name)
                else:
                    self.names[name] = attribute.scale
        self.texts = tuple(texts)
        self.columns = {
            name: kind for name in _undescribed(dataset) if (kind := _kind(dataset, name))
        }
        self.names |= {name: kind for name, kind in self.columns.items() if name not in self.names}

    def values(self, name: str, keys: Sequence[str]) -> np.ndarray:
        """Read an attribute of records.

        Args:
            name: One of `names`, or of `texts`.
            keys: Of n records.

        Returns:
            (n,) float64 with NaN, or objects with None, where a record has none, is not in the
            data, or cannot be read.

        Raises:
            AmodalError: For an unknown name.
        """
        if name not in self.names and name not in self.texts:
            raise unknown("attribute of this data", name, self.names)
        return self._column(name, [self._value(name, self.row_of.get(key, -1)) for key in keys])

    def all_values(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """All attributes of records, texts too; each value is decoded once.

        Args:
            keys: Of n records.

        Returns:
            Name -> (n,) as `values` gives them.
        """
        rows = [self.row_of.get(key, -1) for key in keys]
        columns: dict[str, list[float | str | None]] = {}
        for field in self.dataset.fields:
            reads = {name: of[1].read for name, of in self.of_fields.items() if of[0] == field}
            columns |= {name: [] for name in reads}
            for i in rows:
                value = self._decoded(field, i) if reads else None
                for name, read in reads.items():
                    columns[name].append(None if value is None else read(value))
        columns |= {name: [self._value(name, i) for i in rows] for name in self.columns}
        return {name: self._column(name, values) for name, values in columns.items()}

    def _column(self, name: str, values: Sequence[float | str | None]) -> np.ndarray:
        if self.names.get(name) == "number":
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        made = np.full(len(values), None, dtype=object)
        made[:] = values
        return made

    def _decoded(self, field: str, i: int) -> np.ndarray | None:
        if i < 0:
            return None
        try:
            return self.dataset.value(i, field)
        except BadValue:
            return None

    def _value(self, name: str, i: int) -> float | str | None:
        if i < 0:
            return None
        if name in self.of_fields:
            field, attribute = self.of_fields[name]
            value = self._decoded(field, i)
            return None if value is None else attribute.read(value)
        cell = self.dataset.reader.undamaged(i, name)
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
    """ "number" or "classes"; "" for what is neither, such as files and free text."""
    cells = [
        cell
        for i in range(min(len(dataset), SAMPLE_SIZE))
        if (cell := dataset.reader.undamaged(i, column)) not in (None, "")
    ]
    named = (str, bool, int, float, np.number)
    if not cells or not all(isinstance(cell, named) or is_date(cell) for cell in cells):
        return ""
    if mostly_numbers(cells):
        return "number"
    names = {str(cell) for cell in cells}
    few = 2 * len(names) <= len(cells) or len(names) <= 2
    return "classes" if few and max(map(len, names)) <= MAX_NAME_LENGTH else ""
