"""Cells of a dataset by name, wherever they are: papers come as tables with any columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal.core import unknown
from amodal.core.regular_file import regular
from amodal.data import Dataset


def cell_names(dataset: Dataset) -> set[str]:
    """Names that `cells` accepts: fields, labels and columns."""
    return {*dataset.fields, *dataset.labels, *dataset.reader.columns}


def cells(dataset: Dataset, name: str) -> list[Any]:
    """The cells of all records under a name, None where there is none.

    A label, a field's raw value or, of columns that are neither, the cell. Files of text are
    read.

    Args:
        dataset: of the records.
        name: one of `cell_names`.

    Raises:
        AmodalError: an unknown name; the message has the nearest ones.
    """
    if name in dataset.labels:
        return [None if v is None or v != v else v for v in dataset.label(name).tolist()]
    if name in dataset.fields:
        damaged = dataset.reader.damaged
        values = [None if i in damaged else dataset.raw(i, name) for i in range(len(dataset))]
    elif name in dataset.reader.columns:
        values = [None if v is None or v != v else v for v in dataset.reader.cells(name)]
    else:
        raise unknown("field, label or column of the papers", name, cell_names(dataset))
    return [regular(v).read_text(encoding="utf-8") if isinstance(v, Path) else v for v in values]
