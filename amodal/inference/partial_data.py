"""Data that lacks fields of a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from amodal import data as records
from amodal.data import Dataset, Openable
from amodal.modalities import Modality


def read_partial(data: Openable, fields: Mapping[str, Modality], *, stacklevel: int = 3) -> Dataset:
    """Open data that may lack whole fields of a run, with a warning.

    Args:
        data: Whatever `amodal.open` takes.
        fields: Of the run, as which its values are decoded.
        stacklevel: Of the warning.

    Raises:
        AmodalError: If it lacks all of them, or has one under another name.
    """
    dataset = records.open(data)
    missing = dataset.missing_fields(fields)
    if 0 < len(missing) < len(fields) and not dataset.renamed_fields(fields):
        lacking = f"{dataset.name!r} has no {' and no '.join(missing)}; what it has is read"
        warnings.warn(lacking, stacklevel=stacklevel)
        dataset = dataset.with_columns(missing)
    return dataset.with_fields(fields)
