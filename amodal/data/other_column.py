"""One field of a dataset, read from another column of it: what a picture becomes, beside it."""

from __future__ import annotations

from dataclasses import replace

from amodal.core import unknown
from amodal.data.dataset import Dataset
from amodal.data.schema import Field


def column_named(dataset: Dataset, name: str) -> str:
    """The column that a name means: that of a field or a label, or the column itself.

    Args:
        dataset: Has it.
        name: Of a field, of a label or of a column.

    Raises:
        AmodalError: There is none; the nearest one is offered.
    """
    columns = dataset.columns.get(name)
    if isinstance(columns, str):
        return columns
    if name in dataset.labels:
        return dataset.labels[name].column or name
    if name not in dataset.reader.columns:
        raise unknown(f"column of {dataset.name!r}", name, dataset.reader.columns)
    return name


def read_from(dataset: Dataset, field: str, name: str) -> Dataset:
    """The same records with one field, whose values are those of another column.

    Args:
        dataset: Has the records.
        field: Says how the values are decoded.
        name: See `column_named`.

    Raises:
        AmodalError: For an unknown field or column.
    """
    modality = dataset.fields[dataset.find_field(field)]
    only = {field: Field(modality, column=column_named(dataset, name))}
    schema = replace(dataset.schema, fields=only, labels={})
    return Dataset(dataset.reader, schema, dataset.path, dataset.name, parts=dataset.parts)
