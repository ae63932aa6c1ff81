"""Data that lacks fields of a run, or columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from amodal import data as records
from amodal.data import Dataset, Openable
from amodal.data.dataset import columns_of
from amodal.errors import AmodalError, warn
from amodal.modalities import Modality, name_of
from amodal.modalities.shared.formatting import first_names


def read_partial(data: Openable, fields: Mapping[str, Modality]) -> Dataset:
    """Open data that may lack fields of a run, or columns of a table, with a warning.

    Args:
        data: Whatever `amodal.open` takes.
        fields: Of the run, as which its values are decoded.

    Raises:
        AmodalError: If it lacks all of them, or has one under another name.
    """
    dataset = _without_other_rows(records.open(data, expected=fields), fields)
    if lacking := _lacking_columns(dataset, fields):
        dataset = dataset.with_columns(lacking)
        warn(f"{dataset.name!r} has no {first_names(lacking, 5)}; these cells are read as missing")
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
        note = f"{dataset.name!r} has no {' and no '.join(missing)}; what it has is read"
        warn(note)
        dataset = dataset.with_columns(missing)
    for field in fields.keys() & dataset.fields.keys():
        if said := dataset.fields[field].mismatch(fields[field]):
            warn(
                f"{field!r} of {dataset.name!r} has {said}; its steps are read as they are. Bring "
                "them to those of the run first, by interpolation or a factor"
            )
    return dataset.with_fields(fields)


def _without_other_rows(dataset: Dataset, fields: Mapping[str, Modality]) -> Dataset:
    """The data without fields that are read from single cells, and have no column of the run's
    field of that name.

    Raises:
        AmodalError: If nothing of the run is left then.
    """
    other = {
        name: columns_of(dataset.fields[name])
        for name, modality in fields.items()
        if name in dataset.fields
        and isinstance(dataset.columns[name], tuple)
        and not any(column in dataset.reader.columns for column in columns_of(modality))
    }
    rest = [name for name in dataset.fields if name not in other]
    if other and not any(name in fields or name in dataset.reader.columns for name in rest):
        name, here = next(iter(other.items()))
        raise AmodalError(
            f"{dataset.name!r} has none of the columns that {name!r} of this run reads, "
            f"{first_names(columns_of(fields[name]), 12)}; it has {first_names(here, 12)}"
        )
    return dataset.select(rest) if other else dataset


def _lacking_columns(dataset: Dataset, fields: Mapping[str, Modality]) -> list[str]:
    """The columns of tables of which the data have others.

    Raises:
        AmodalError: If the data have one under nearly the same name.
    """
    here = dataset.reader.columns
    lacking: dict[str, None] = {}
    for name, modality in fields.items():
        columns = columns_of(modality)
        if name in here or not any(column in here for column in columns):
            continue
        others = [column for column in here if column not in columns and column not in fields]
        for column in columns:
            if column in here:
                continue
            if near := get_close_matches(column, others, 1, 0.8):
                raise AmodalError(
                    f"{dataset.name!r} has no column {column!r}, which this run reads, but "
                    f"{near[0]!r}: if that is it, rename it; if not, add an empty column {column!r}"
                )
            lacking[column] = None
    return [*lacking]


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
