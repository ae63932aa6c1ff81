"""Columns of a dataset beside what a run predicts, so that the table is one of records again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.dataset import Dataset
from amodal.data.other_column import column_named

Plain = str | float | None


def copied_cells(dataset: Dataset, name: str, part: str | None) -> list[Plain]:
    """The cells of a column as a table has them.

    Args:
        dataset: Has it.
        name: Of a field, a label or a column.
        part: Of the split; all records if None.

    Raises:
        AmodalError: There is no such column, or it holds arrays or bytes.
    """
    cells = dataset.reader.cells(column_named(dataset, name))
    found: list[Plain] = []
    for i in (dataset.split(part) if part else np.arange(len(dataset))).tolist():
        cell = cells[i]
        if isinstance(cell, (dict, list, bytes, np.ndarray)):
            raise AmodalError(f"the column {name!r} holds {type(cell).__name__}, not text or names")
        plain = cell is None or isinstance(cell, (str, int, float))
        found.append(cell if plain else str(cell))
    numbers = {type(cell) for cell in found if cell is not None} <= {int, float}
    return found if numbers else [None if cell is None else str(cell) for cell in found]


def with_copies(table: pa.Table, copies: Mapping[str, Sequence[Plain]]) -> pa.Table:
    """A table with more columns.

    Args:
        table: What is predicted.
        copies: Name -> cells.

    Raises:
        AmodalError: A column has the name of what is predicted.
    """
    for name, cells in copies.items():
        if name in table.column_names:
            raise AmodalError(f"{name!r} is what is predicted here; copy other columns")
        table = table.append_column(name, pa.array(cells))
    return table
