"""What dataset.toml leaves open is measured on some records: sizes, means, names of channels and
categories."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from amodal import modalities
from amodal.core import AmodalError
from amodal.data.dataset import Dataset
from amodal.data.remote import Unreachable, together
from amodal.modalities import BadValue, Modality, Raw

SAMPLES, ROWS = 200, 2000
"""Values that a modality is measured on: files, and rows of a table, which cost little and hide
rare categories."""


def measured(dataset: Dataset) -> Dataset:
    """The same dataset, the modalities of its fields completed. A field without a readable value
    stays as it was written."""
    complete = {name: _complete(dataset, name) for name in dataset.fields}
    if all(complete[name] is field.modality for name, field in dataset.schema.fields.items()):
        return dataset
    stated = {
        name: replace(field, modality=complete[name], given=None)
        for name, field in dataset.schema.fields.items()
    }
    return Dataset(
        dataset.reader, replace(dataset.schema, fields=stated), dataset.path, dataset.name
    )


def _complete(dataset: Dataset, name: str) -> Modality:
    field = dataset.schema.fields[name]
    kind = type(field.modality)
    if field.given is None or {f.name for f in fields(kind)} <= set(field.given):
        return field.modality
    given = {
        key: value for key, value in modalities.config(field.modality).items() if key in field.given
    }
    try:
        return kind.infer(
            samples(dataset, name, ROWS if isinstance(dataset.columns[name], tuple) else SAMPLES),
            **given,
        )
    except BadValue:  # nothing there, or nothing readable
        return field.modality


def samples(dataset: Dataset, name: str, n: int = SAMPLES) -> list[Raw]:
    """Up to n raw values of a field from records spread evenly over the data: the same ones each
    time."""
    have = np.flatnonzero(dataset.present(name))

    def raw(i) -> Raw | None:
        try:
            return dataset.raw(int(i), name)
        except Unreachable:
            raise
        except AmodalError:  # of a field, or of a part of a table that is damaged
            return None

    raws = together(raw, have[spread(len(have), n)], dataset.reader.far)
    return [raw for raw in raws if raw is not None]


def spread(length: int, n: int) -> np.ndarray:
    """(at most n,) int64: positions spread evenly over 0 … length-1."""
    return (
        np.unique(np.linspace(0, length - 1, min(n, length)).round().astype(np.int64))
        if length
        else np.zeros(0, np.int64)
    )
