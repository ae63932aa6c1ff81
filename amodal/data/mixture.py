"""A mixture of datasets, drawn in fixed proportions.

As with all batches, the rows are a pure function of seed and step.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.data import order, splits
from amodal.data.dataset import Dataset
from amodal.data.open_dataset import open_dataset
from amodal.data.readers import Reader
from amodal.data.readers.base import Cell
from amodal.data.remote import AnyPath
from amodal.data.schema import Field, Label, Schema
from amodal.modalities import Modality, name_of

SLOTS = 10_000
"""Draws after which the pattern repeats. A weight is met to one part in so many."""
PART = "(part)"
"""The column of the joined records with the part of the split of each."""


@dataclass(frozen=True)
class Proportions:
    """How often each dataset is drawn from.

    Attributes:
        ends: number of records up to and with each dataset.
        weights: of the datasets, None for their sizes.
        names: of the datasets.
    """

    ends: tuple[int, ...]
    weights: tuple[float, ...] | None
    names: tuple[str, ...]


class Mixture(Dataset):
    """Datasets of different schemas as one, whose training batches have fixed proportions of them.

    A field or a label that a dataset lacks is absent from its records: nothing is filled in. A
    field that two of them have is decoded as the first has it. Every dataset keeps its split.

    Args:
        datasets: Datasets, or whatever `amodal.open` takes.
        weights: how often a record of each is drawn, any positive numbers; by default their sizes.
        name: of the whole; by default the names of the datasets.

    Raises:
        AmodalError: weights do not fit the datasets, a field has two modalities, or a label two
            kinds.
    """

    def __init__(
        self,
        datasets: Sequence[str | AnyPath | Mapping[str, Sequence[Any]] | Dataset],
        weights: Sequence[float] | None = None,
        name: str = "",
    ) -> None:
        if isinstance(datasets, str | Mapping) or not isinstance(datasets, Iterable):
            raise AmodalError(
                f"a Mixture takes a list of datasets, not one {type(datasets).__name__}: "
                "Mixture([ONE, ANOTHER])"
            )
        members = [_opened(number, dataset) for number, dataset in enumerate(datasets)]
        _check(members, weights)
        fields = _fields(members)
        reader = JoinedReader([_read_as(member, fields) for member in members], weights)
        schema = Schema(
            {field: Field(modality) for field, modality in fields.items()},
            _labels(members),
            split=PART,
        )
        ends, names = tuple(accumulate(map(len, members))), tuple(m.name for m in members)
        drawn = Proportions(ends, reader.weights, names)
        super().__init__(reader, schema, None, name or "+".join(names), proportions=drawn)


class JoinedReader(Reader):
    """The records of datasets, one after the other. A column is a field or a label."""

    base = None

    def __init__(self, members: Sequence[Dataset], weights: Sequence[float] | None) -> None:
        self.members = list(members)
        self.weights = None if weights is None else tuple(map(float, weights))
        self.starts = [0, *accumulate(len(member) for member in members)]
        self.keys = _keys(self.members)
        self.fields = tuple(dict.fromkeys(f for member in members for f in member.fields))
        labels = dict.fromkeys(name for member in members for name in member.labels)
        self.columns = tuple(
            dict.fromkeys((*self.fields, *(LABEL + name for name in labels), PART))
        )
        self.ignored: Counter[str] = sum((member.reader.ignored for member in members), Counter())

    @property
    def is_remote(self) -> bool:
        return any(member.reader.is_remote for member in self.members)

    def get(self, i: int, column: str) -> Cell:
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        member, record = self.members[number], i - self.starts[number]
        if column == PART:
            return splits.PARTS[member.parts[record]]
        if column.startswith(LABEL):
            name = column.removeprefix(LABEL)
            label = member.labels.get(name)
            if label is None:
                return None
            return member.reader.undamaged(int(record), label.column or name)
        return member.raw(record, column) if column in member.fields else None

    def present(self, column: str) -> np.ndarray:
        if column not in self.fields:
            return super().present(column)
        return np.concatenate(
            [
                member.present(column) if column in member.fields else np.zeros(len(member), bool)
                for member in self.members
            ]
        )

    def stamp(self) -> str:
        text = ";".join([*(member.fingerprint for member in self.members), str(self.weights)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


LABEL = "labels."
"""The prefix of a label's column, since a field may have the same name."""


class MixtureSampler:
    """Draws the records of training batches from the datasets of a mixture.

    Rows are assigned to the datasets in a pattern that repeats every SLOTS draws. Each dataset has
    epochs of its own, and another order in each. So the record of a row follows from seed, step and
    row alone.

    Args:
        proportions: of the datasets.
        indices: (n,) ascending, the records to draw from.
        batch: rows of a batch, over all processes.
        seed: of the order.

    Raises:
        AmodalError: a batch needs more records of a dataset than it has.
    """

    def __init__(
        self, proportions: Proportions, indices: np.ndarray, batch: int, seed: int
    ) -> None:
        member = np.searchsorted(proportions.ends, indices, side="right")
        self.records = [np.flatnonzero(member == m) for m in range(len(proportions.ends))]
        sizes = np.array([len(records) for records in self.records], dtype=np.float64)
        weights = (
            sizes if proportions.weights is None else np.array(proportions.weights) * (sizes > 0)
        )
        self.batch, self.seed = batch, seed
        self.slots = interleave(weights)
        self.counts = np.bincount(self.slots, minlength=len(sizes))
        # slot -> how many slots of its dataset come before it in the pattern
        self.before = np.zeros(SLOTS, dtype=np.int64)
        for m in range(len(sizes)):
            slots = np.flatnonzero(self.slots == m)
            self.before[slots] = np.arange(len(slots))
        for m, count in enumerate(np.ceil(batch * self.counts / SLOTS).astype(int)):
            if count > max(sizes[m], 1):
                raise AmodalError(
                    f"the weights ask for {count} of the {batch} rows of a batch from "
                    f"{proportions.names[m]!r}, which has {int(sizes[m])} records to train on; "
                    "take smaller batches or a smaller weight"
                )

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of one step.

        Returns:
            (batch,) positions in `indices`, and (batch,) epochs of their datasets, both int64.
        """
        draws = step * self.batch + np.arange(self.batch)
        member = self.slots[draws % SLOTS]
        number = draws // SLOTS * self.counts[member] + self.before[draws % SLOTS]
        rows, epochs = np.zeros(self.batch, dtype=np.int64), np.zeros(self.batch, dtype=np.int64)
        for m in np.unique(member):
            mask = member == m
            chosen, epochs[mask] = self._draw(int(m), number[mask])
            rows[mask] = self.records[m][chosen]
        return rows, epochs

    def _draw(self, member: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Records and epochs of consecutive draws from one dataset, no record twice."""
        n, seed = len(self.records[member]), self.seed * len(self.records) + member
        # a seed for each dataset, which no dataset of another seed shares
        chosen, epochs = order.epochs(numbers, n, seed=seed)
        fresh = np.flatnonzero(epochs != epochs[0])
        if len(fresh) and len(numbers) <= n:  # an epoch ends within the batch
            used, position = set(chosen[epochs == epochs[0]].tolist()), len(fresh)
            for row in fresh.tolist():
                # A record that the batch already has is exchanged for a later one of this epoch.
                while int(chosen[row]) in used:
                    chosen[row], position = (
                        _permuted(position, n, seed, int(epochs[row])),
                        position + 1,
                    )
                used.add(int(chosen[row]))
        return chosen, epochs


def _permuted(position: int, n: int, seed: int, epoch: int) -> int:
    return int(order.permute(np.array([position % n]), n, seed=seed, epoch=epoch)[0])


def interleave(weights: np.ndarray) -> np.ndarray:
    """Assign slots to datasets: as many as each weight asks for, spread evenly.

    Args:
        weights: (datasets,), 0 for one that is not drawn from.

    Returns:
        (SLOTS,) int64, the dataset of each slot.
    """
    shares = weights / weights.sum() * SLOTS
    counts = np.where(weights > 0, np.maximum(np.floor(shares), 1), 0).astype(int)
    for m in np.argsort(counts - shares, kind="stable")[: max(SLOTS - counts.sum(), 0)]:
        counts[m] += 1
    counts[np.argmax(counts)] += SLOTS - counts.sum()
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.repeat(np.arange(len(weights)), counts)[np.argsort(places, kind="stable")]


def _opened(number: int, dataset: Any) -> Dataset:
    """The dataset of this number."""
    if not isinstance(dataset, str | AnyPath | Mapping | Dataset):
        raise AmodalError(
            f"dataset {number} of the Mixture is of type {type(dataset).__name__}; expected a "
            "Dataset, or what amodal.open takes: a name, a path, or a dict of columns"
        )
    return open_dataset(dataset)


def _check(members: Sequence[Dataset], weights: Sequence[float] | None) -> None:
    if len(members) < 2:
        raise AmodalError(f"a Mixture is of two datasets or more, not {len(members)}")
    if weights is not None and not _are_weights(weights, len(members)):
        listed = isinstance(weights, Iterable) and not isinstance(weights, str)
        raise AmodalError(
            f"weights must be {len(members)} positive numbers, one for each dataset; "
            f"they are {list(weights) if listed else repr(weights)}"
        )


def _are_weights(weights: Any, count: int) -> bool:
    """Whether these are `count` numbers above 0, none of them infinite."""
    try:
        values = np.asarray(weights)
    except ValueError:  # lists of unequal lengths
        return False
    if values.shape != (count,) or values.dtype.kind not in "iuf":
        return False
    return bool((values > 0).all() and np.isfinite(values).all())


def _fields(members: Sequence[Dataset]) -> dict[str, Modality]:
    fields: dict[str, Modality] = {}
    for member in members:
        for name, modality in member.fields.items():
            first = fields.setdefault(name, modality)
            if type(first) is not type(modality):
                raise AmodalError(
                    f"the field {name!r} is {name_of(first)} in one dataset and "
                    f"{name_of(modality)} in {member.name!r}; rename one of them"
                )
    return fields


def _read_as(member: Dataset, fields: dict[str, Modality]) -> Dataset:
    return member.with_fields({name: fields[name] for name in member.fields})


def _labels(members: Sequence[Dataset]) -> dict[str, Label]:
    labels: dict[str, Label] = {}
    for member in members:
        for name, label in member.labels.items():
            first = labels.setdefault(name, replace(label, column=LABEL + name))
            if first.kind != label.kind:
                raise AmodalError(
                    f"the label {name!r} is a {first.kind} in one dataset and a {label.kind} "
                    "in another"
                )
    return labels


def _keys(members: Sequence[Dataset]) -> list[str]:
    """The keys of all records, with the number of the dataset before them where two datasets have
    a key in common."""
    keys = [key for member in members for key in member.keys]
    if len(set(keys)) == len(keys):
        return keys
    return [f"{number}/{key}" for number, member in enumerate(members, 1) for key in member.keys]
