"""Several datasets as one, drawn in fixed proportions.

A pure function of seed and step, as all batches are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from amodal.core import AmodalError
from amodal.data import order, splits
from amodal.data.cache import Cache
from amodal.data.dataset import Dataset
from amodal.data.open_dataset import open_dataset
from amodal.data.readers import Reader
from amodal.data.schema import Field, Label, Schema
from amodal.modalities import Modality, name_of

SLOTS = 10_000
"""Draws after which proportions repeat: a weight is met to a part in so many."""
PART = "(part)"
"""The column of the joined records that says which part of its split each is in."""


@dataclass(frozen=True)
class Proportions:
    """How often each dataset is drawn from.

    ends: the number of records up to and with each dataset. weights: None for their sizes.
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
        name: of the whole; the names of the datasets unless given.

    Raises AmodalError for weights that do not fit, for a field of two modalities and for a label of
    two kinds.
    """

    def __init__(self, datasets: Sequence, weights: Sequence[float] | None = None, name: str = ""):
        members = [open_dataset(dataset) for dataset in datasets]
        _check(members, weights)
        fields = _fields(members)
        reader = Joined([_read_as(member, fields) for member in members], weights)
        schema = Schema(
            {field: Field(modality) for field, modality in fields.items()},
            _labels(members),
            split=PART,
        )
        super().__init__(reader, schema, None, name or "+".join(m.name for m in members))
        ends = tuple(accumulate(len(member) for member in members))
        self.proportions = Proportions(ends, reader.weights, tuple(m.name for m in members))

    def _with(self, schema: Schema, cache: Cache) -> Dataset:
        dataset = super()._with(schema, cache)
        dataset.proportions = self.proportions
        return dataset


class Joined(Reader):
    """The records of datasets, one after the other. A column is a field or a label."""

    base = None

    def __init__(self, members: Sequence[Dataset], weights: Sequence[float] | None):
        self.members, self.weights = (
            list(members),
            None if weights is None else tuple(map(float, weights)),
        )
        self.starts = [0, *accumulate(len(member) for member in members)]
        self.keys = _keys(self.members)
        self.fields = tuple(dict.fromkeys(f for member in members for f in member.fields))
        labels = dict.fromkeys(name for member in members for name in member.labels)
        self.columns = tuple(
            dict.fromkeys((*self.fields, *(LABEL + name for name in labels), PART))
        )
        self.ignored = sum((member.reader.ignored for member in members), Counter())

    @property
    def far(self) -> bool:
        return any(member.reader.far for member in self.members)

    def get(self, i: int, column: str):
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        member, own = self.members[number], i - self.starts[number]
        if column == PART:
            return splits.PARTS[member.parts[own]]
        if column.startswith(LABEL):
            name = column.removeprefix(LABEL)
            label = member.labels.get(name)
            return None if label is None else member.reader.get(own, label.column or name)
        return member.raw(own, column) if column in member.fields else None

    def present(self, column: str) -> np.ndarray:
        if column not in self.fields:
            return super().present(column)
        none = (np.zeros(len(member), dtype=bool) for member in self.members)
        each = (m.present(column) if column in m.fields else n for m, n in zip(self.members, none))
        return np.concatenate(list(each))

    def stamp(self) -> str:
        text = ";".join([*(member.fingerprint for member in self.members), str(self.weights)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


LABEL = "labels."
"""What the column of a label begins with: a field may have its name."""


class Drawn:
    """Which record each row of a training batch is.

    Rows are dealt to the datasets in a pattern that repeats every SLOTS draws. Each dataset goes
    through its records in another order every epoch of its own, so that the record of a row follows
    from seed, step and row alone.

    Args:
        proportions: of the datasets.
        indices: (n,) ascending, the records to draw from.
        batch: rows of a batch, over all processes.
        seed: of the order.
    """

    def __init__(self, proportions: Proportions, indices: np.ndarray, batch: int, seed: int):
        member = np.searchsorted(proportions.ends, indices, side="right")
        self.records = [np.flatnonzero(member == m) for m in range(len(proportions.ends))]
        sizes = np.array([len(records) for records in self.records], dtype=np.float64)
        weights = (
            sizes if proportions.weights is None else np.array(proportions.weights) * (sizes > 0)
        )
        self.batch, self.seed = batch, seed
        self.slots = dealt(weights)
        self.counts = np.bincount(self.slots, minlength=len(sizes))
        self.before = np.zeros(SLOTS, dtype=np.int64)
        for m in range(len(sizes)):
            own = np.flatnonzero(self.slots == m)
            self.before[own] = np.arange(len(own))
        for m, count in enumerate(np.ceil(batch * self.counts / SLOTS).astype(int)):
            if count > max(sizes[m], 1):
                raise AmodalError(
                    f"the weights ask for {count} of the {batch} rows of a batch from "
                    f"{proportions.names[m]!r}, which has {int(sizes[m])} records to train on; "
                    "take smaller batches or a smaller weight"
                )

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(batch,) positions in `indices` and epochs of their dataset, of the rows of one step."""
        draws = step * self.batch + np.arange(self.batch)
        member = self.slots[draws % SLOTS]
        number = draws // SLOTS * self.counts[member] + self.before[draws % SLOTS]
        rows, epochs = np.zeros(self.batch, dtype=np.int64), np.zeros(self.batch, dtype=np.int64)
        for m in np.unique(member):
            own = member == m
            chosen, epochs[own] = self._of(int(m), number[own])
            rows[own] = self.records[m][chosen]
        return rows, epochs

    def _of(self, member: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Records and epochs of some draws in a row from one dataset, no record of which comes
        twice.
        """
        n, seed = len(self.records[member]), self.seed * len(self.records) + member
        chosen, epochs = order.epochs(numbers, n, seed=seed)
        fresh = np.flatnonzero(epochs != epochs[0])
        if len(fresh) and len(numbers) <= n:  # an epoch ends within the batch
            used, place = set(chosen[epochs == epochs[0]].tolist()), len(fresh)
            for row in fresh.tolist():
                while (
                    int(chosen[row]) in used
                ):  # later in this epoch, instead of what the batch has
                    chosen[row], place = _permuted(place, n, seed, int(epochs[row])), place + 1
                used.add(int(chosen[row]))
        return chosen, epochs


def _permuted(place: int, n: int, seed: int, epoch: int) -> int:
    return int(order.permute(np.array([place % n]), n, seed=seed, epoch=epoch)[0])


def dealt(weights: np.ndarray) -> np.ndarray:
    """(SLOTS,) the dataset of each slot: as many as its weight says, spread evenly."""
    shares = weights / weights.sum() * SLOTS
    counts = np.where(weights > 0, np.maximum(np.floor(shares), 1), 0).astype(int)
    for m in np.argsort(counts - shares, kind="stable")[: max(SLOTS - counts.sum(), 0)]:
        counts[m] += 1
    counts[np.argmax(counts)] += SLOTS - counts.sum()
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.repeat(np.arange(len(weights)), counts)[np.argsort(places, kind="stable")]


def _check(members: Sequence[Dataset], weights: Sequence[float] | None) -> None:
    if len(members) < 2:
        raise AmodalError(f"a Mixture is of two datasets or more, not {len(members)}")
    if weights is not None and (len(weights) != len(members) or not all(w > 0 for w in weights)):
        raise AmodalError(
            f"weights must be {len(members)} positive numbers, one for each dataset; they are {list(weights)}"
        )


def _fields(members: Sequence[Dataset]) -> dict[str, Modality]:
    fields: dict[str, Modality] = {}
    for member in members:
        for name, modality in member.fields.items():
            first = fields.setdefault(name, modality)
            if type(first) is not type(modality):
                raise AmodalError(
                    f"the field {name!r} is {name_of(first)} in one dataset and "
                    f"{name_of(modality)} in "
                    f"{member.name!r}; rename one of them"
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
                    f"the label {name!r} is a {first.kind} in one dataset and a {label.kind} in another"
                )
    return labels


def _keys(members: Sequence[Dataset]) -> list[str]:
    """The keys of all records.

    Where two datasets have one in common, the number of the dataset goes before.
    """
    keys = [key for member in members for key in member.keys]
    if len(set(keys)) == len(keys):
        return keys
    return [f"{number}/{key}" for number, member in enumerate(members, 1) for key in member.keys]
