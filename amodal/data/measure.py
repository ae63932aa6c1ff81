"""Measure on some records what dataset.toml leaves open: sizes, means, names of categories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from amodal import modalities
from amodal.core import AmodalError
from amodal.data.dataset import Dataset
from amodal.data.remote import Unreachable, parallel_map
from amodal.data.schema import parameters_of
from amodal.modalities import BadValue, Modality, Raw

SAMPLES, ROWS = 200, 2000
"""Values that a modality is measured on: of files, and of rows of a table, which cost little and
may have rare categories."""

CHUNK = 8
"""Values that are read at once, where all of a field may be unreadable."""


def complete_fields(dataset: Dataset) -> Dataset:
    """Measure the parameters of modalities that nobody chose.

    Args:
        dataset: its schema says which parameters were declared.

    Returns:
        The same records with complete modalities. A field without a readable value stays as it is.
    """
    complete = {name: _complete(dataset, name) for name in dataset.fields}
    if all(complete[name] is field.modality for name, field in dataset.schema.fields.items()):
        return dataset
    schema_fields = {
        name: replace(field, modality=complete[name], declared=None)
        for name, field in dataset.schema.fields.items()
    }
    schema = replace(dataset.schema, fields=schema_fields)
    return Dataset(dataset.reader, schema, dataset.path, dataset.name)


def _complete(dataset: Dataset, name: str) -> Modality:
    field = dataset.schema.fields[name]
    kind = type(field.modality)
    if field.declared is None or set(parameters_of(kind)) <= set(field.declared):
        return field.modality
    config = modalities.config(field.modality)
    declared = {key: value for key, value in config.items() if key in field.declared}
    try:
        return kind.infer(samples(dataset, name, sample_count(dataset, name)), **declared)
    except BadValue:  # no value, or none that can be read
        return field.modality


def sample_count(dataset: Dataset, name: str) -> int:
    """How many values of a field are measured at most."""
    return ROWS if isinstance(dataset.columns[name], tuple) else SAMPLES


def samples(dataset: Dataset, name: str, n: int = SAMPLES) -> list[Raw]:
    """Raw values of a field, from records spread evenly over the data: the same ones each time.

    Args:
        dataset: to take them from.
        name: of the field.
        n: how many at most.
    """
    have = np.flatnonzero(dataset.present(name))
    n = min(n, dataset.fields[name].at_once or n)

    def raw(i: int) -> Raw | None:
        try:
            return dataset.raw(i, name)
        except Unreachable:
            raise
        except AmodalError:  # a field, or a part of a table, that is damaged
            return None

    chosen: Iterable[int] = have[evenly_spaced(len(have), n)].tolist()
    raws = parallel_map(raw, chosen, dataset.reader.is_remote)
    return [value for value in raws if value is not None]


def why_unreadable(dataset: Dataset, name: str) -> str:
    """Why no value of a field can be read, "" if one can or there is none.

    A readable value ends the search, so a usual field costs a few values.

    Args:
        dataset: to read from.
        name: of the field.
    """

    def mistake(i: int) -> str | None:
        try:
            dataset.value(i, name)
        except BadValue as error:
            return str(error)
        return None

    have = np.flatnonzero(dataset.present(name))
    first = ""
    # a value in the middle is likelier to be of another source than the second one is
    spread = have[evenly_spaced(len(have), SAMPLES)]
    order = np.concatenate([spread, np.setdiff1d(have, spread)]).tolist()
    for start in range(0, len(order), CHUNK):
        mistakes = parallel_map(mistake, order[start : start + CHUNK], dataset.reader.is_remote)
        for reason in mistakes:
            if reason is None:
                return ""
            first = first or reason
    if not first:
        return ""
    values = "the only value" if len(have) == 1 else f"all {len(have):,} values"
    return f"{values} of {name!r} could not be read: {first}"


def evenly_spaced(length: int, n: int) -> np.ndarray:
    """Positions spread evenly over 0 … length-1.

    Args:
        length: of the sequence.
        n: how many at most.

    Returns:
        (min(n, length),) int64, ascending.
    """
    if not length:
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(0, length - 1, min(n, length)).round().astype(np.int64))
