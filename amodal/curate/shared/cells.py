"""What a dataset has under a name, wherever it is: collections of papers come as tables, in which
venue and year may be anything."""

from __future__ import annotations

from pathlib import Path

from amodal.core import unknown
from amodal.data import Dataset


def known(dataset: Dataset) -> set[str]:
    """Names that `cells` knows."""
    return {*dataset.fields, *dataset.labels, *dataset.reader.columns}


def cells(dataset: Dataset, name: str) -> list:
    """What each record has under a name: a label, a field's value or, of columns that are neither,
    what stands in the data; None where it has nothing. Files of text are read. Raises AmodalError
    with the nearest names."""
    if name in dataset.labels:
        return [None if v is None or v != v else v for v in dataset.label(name).tolist()]
    if name in dataset.fields:
        found = [dataset.raw(i, name) for i in range(len(dataset))]
    elif name in dataset.reader.columns:
        found = [None if v is None or v != v else v for v in dataset.reader.cells(name)]
    else:
        raise unknown("field, label or column of the papers", name, known(dataset))
    return [v.read_text(encoding="utf-8") if isinstance(v, Path) else v for v in found]
