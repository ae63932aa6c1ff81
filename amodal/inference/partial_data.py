"""Data that lacks fields of a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from amodal import data as records
from amodal.data import Dataset, Openable
from amodal.errors import AmodalError, AmodalWarning
from amodal.modalities import Modality, name_of


def read_partial(data: Openable, fields: Mapping[str, Modality], *, stacklevel: int = 3) -> Dataset:
    """Open data that may lack whole fields of a run, with a warning.

    Args:
        data: Whatever `amodal.open` takes.
        fields: Of the run, as which its values are decoded.
        stacklevel: Of the warning.

    Raises:
        AmodalError: If it lacks all of them, or has one under another name.
    """
    dataset = records.open(data, expected=fields)
    missing = dataset.missing_fields(fields)
    renamed = dataset.renamed_fields(fields)
    if renamed:
        name, near = next(iter(renamed.items()))
        raise AmodalError(
            f"{dataset.name!r} has no field {name!r}, which this run reads, but {near!r}: if that "
            f"is it, change [fields.{near}] to [fields.{name}] in the dataset.toml that "
            "`amodal init` writes, or rename the column"
        )
    if missing and len(missing) == len(fields):
        raise _none_of(dataset, fields)
    if missing:
        lacking = f"{dataset.name!r} has no {' and no '.join(missing)}; what it has is read"
        warnings.warn(lacking, AmodalWarning, stacklevel=stacklevel)
        dataset = dataset.with_columns(missing)
    for field in fields.keys() & dataset.fields.keys():
        if said := dataset.fields[field].mismatch(fields[field]):
            warnings.warn(
                f"{field!r} of {dataset.name!r} has {said}; its steps are read as they are. Bring "
                "them to those of the run first, by interpolation or a factor",
                AmodalWarning,
                stacklevel=stacklevel,
            )
    return dataset.with_fields(fields)


def _none_of(dataset: Dataset, fields: Mapping[str, Modality]) -> AmodalError:
    """The error for data without any field of the run, with those that are of the same kind."""
    described = [f"{name} ({name_of(modality)})" for name, modality in fields.items()]
    here = [f"{name} ({name_of(modality)})" for name, modality in dataset.fields.items()]
    message = (
        f"{dataset.name!r} has no field of this run, which reads {', '.join(described)}; "
        f"it has {', '.join(here) or 'none'}."
    )
    alike = [
        f"[fields.{there}] to [fields.{name}]"
        for there, other in dataset.fields.items()
        for name, modality in fields.items()
        if type(other) is type(modality)
    ]
    if alike:
        message += (
            f" If it is the same under another name, change {' and '.join(alike)} in the "
            "dataset.toml that `amodal init` writes"
        )
        message += ', and for a column of a table say which it is: column = "NAME".'
    return AmodalError(message)
