"""The yardstick of simple features: what tf-idf, tiny pixels or lengths get on the same records.

Each field's `Modality.simple_features`, fitted on training records, in the place of an encoder's
vectors. For retrieval each pair of fields has a space of its own, see `amodal.evaluate.pair_maps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.core import Column, Embeddings
from amodal.core.column import shared_rows
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_parts import Choice, ComparedParts, NeededParts
from amodal.evaluate.needed_records import Mask
from amodal.evaluate.pair_maps import pair_maps
from amodal.inference.embed import Embedded
from amodal.inference.simple_features import (
    FieldValues,
    original_values,
    reduced,
    side_by_side,
)
from amodal.modalities import BadValue, Modality, NoSimpleFeatures
from amodal.progress import Bar

MAX_TRAIN = 20_000
"""Training records that simple features are made of."""
MIN_TRAIN = 2000
"""Training records that they are fitted on where protocols read fewer."""


class SimpleParts(ComparedParts):
    """Simple features of the records and rows of a model's embedded parts, made when first needed.

    Args:
        fields: Of the model.
        dataset: Where the records are.
        rows: Numbers of the training and of the test records.
        embedded: The model's parts. They say which values can be decoded.
        needed: Which of the records protocols read on simple features; None for all.
        pairs: Whether they read the space where fields are compared, which is fitted on training
            records that no protocol need read.
        seed: Of the choice of training records.
        progress: Show a bar.

    Attributes:
        names: Field -> what its simple features are called, once they have been made.
    """

    def __init__(
        self,
        fields: Mapping[str, Modality],
        dataset: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        embedded: EmbeddedParts,
        *,
        needed: Choice | None = None,
        pairs: bool = True,
        seed: int = 0,
        progress: bool = False,
    ):
        super().__init__(self._simple, embedded, needed)
        self.names: dict[str, str] = {}
        self._records = _Records(fields, dataset, rows, embedded)
        self._pairs, self._seed, self._progress = pairs, seed, progress
        self._reason: str | None = None

    def _simple(self) -> Pair:
        if self._reason is not None:
            raise NotApplicable(self._reason)
        try:
            train, test = self.masks()
            most = MAX_TRAIN if self._pairs else max(MIN_TRAIN, int(train.sum()))
            chosen = training_records(train, most, self._seed), np.flatnonzero(test)
            fields = len(self.embedded.pair[1].sources)
            with Bar("simple features", fields, shown=self._progress) as bar:

                def step(field: str, name: str) -> None:
                    self.names[field] = name
                    bar.step("fields")

                return _pair(self._records, chosen, self._seed, step)
        except NotApplicable as reason:
            self._reason = str(reason)
            raise


@dataclass(frozen=True)
class _Records:
    """The records that simple features are made of.

    Args:
        fields: Of the model.
        dataset: Where they are.
        rows: Numbers of the training and of the test records.
        embedded: The model's parts.
    """

    fields: Mapping[str, Modality]
    dataset: Dataset
    rows: tuple[np.ndarray, np.ndarray]
    embedded: EmbeddedParts

    def values(self, part: int, name: str, chosen: np.ndarray) -> FieldValues:
        """The values of a field of some records of a part."""
        return FieldValues(original_values(self.dataset, name), name, self.rows[part][chosen])

    def with_value(self, part: int, name: str, chosen: np.ndarray) -> np.ndarray:
        """Positions in `chosen`, records of a part, of those that have a readable value."""
        model = self.embedded.pair[part]
        here = np.isin(chosen, model.aligned[name].rows.numpy())
        if isinstance(self.embedded, NeededParts) and self.embedded.masks is not None:
            others = chosen[~self.embedded.masks[part][chosen]]
            others = others[self.dataset.present(name)[self.rows[part][others]]]
            values = self.values(part, name, others)
            here |= np.isin(chosen, others[values.readable()])
        return np.flatnonzero(here)


def training_records(wanted: Mask, most: int, seed: int) -> np.ndarray:
    """Choose training records that features are made of.

    Args:
        wanted: (N,) bool, those that are read. Others are taken where these are few.
        most: How many to take, of at most `MAX_TRAIN`.
        seed: Of the choice.

    Returns:
        Their numbers among the N, ascending.
    """
    most = min(most, MAX_TRAIN)
    order = np.arange(len(wanted))
    if len(wanted) > MAX_TRAIN or not wanted.all():
        order = np.random.default_rng(seed).permutation(len(wanted))
    return np.sort(np.concatenate([order[wanted[order]], order[~wanted[order]]])[:most])


def _pair(
    records: _Records,
    chosen: tuple[np.ndarray, np.ndarray],
    seed: int,
    step: Callable[[str, str], object],
) -> Pair:
    train, test = records.embedded.pair
    columns: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
    for name in test.sources:
        if name not in records.fields or name not in train.aligned:
            continue
        at = [records.with_value(part, name, chosen[part]) for part in (0, 1)]
        values = [records.values(part, name, chosen[part][at[part]]) for part in (0, 1)]
        try:
            transform = records.fields[name].simple_features(values[0])
            x = reduced([torch.from_numpy(transform(part)) for part in values])
        except (NoSimpleFeatures, BadValue):  # the file of a cached feature may be gone
            continue
        for side, part, at_rows in zip(columns, x, at):
            side[name] = Column(part, torch.from_numpy(at_rows.astype(np.int64)))
        step(name, getattr(transform, "name", records.fields[name].simple_name))
    if not columns[0]:
        raise NotApplicable("no field has simple features")
    return in_place_of((train, test), columns, chosen, fused=FUSED in train.probed(), seed=seed)


def in_place_of(
    models: Pair,
    columns: tuple[dict[str, Column], dict[str, Column]],
    chosen: tuple[np.ndarray, np.ndarray],
    *,
    fused: bool,
    seed: int = 0,
) -> Pair:
    """Records with other features in the place of a model's vectors.

    Args:
        models: The model's training and test records.
        columns: Field -> features of some of these, by rows of `chosen`.
        chosen: Numbers of the training and of the test records that may have them. In the result
            columns have the rows of all records, as the model's have.
        fused: Whether there are features of all fields, side by side.
        seed: Of the maps of two fields.
    """
    train, test = models
    flagged = [name for name, column in columns[0].items() if len(column) < len(chosen[0])]
    made = []
    for side, space, rows, whole in zip(columns, _aligned(columns, seed), chosen, models):
        probed = side | ({FUSED: side_by_side(side, len(rows), flagged)} if fused else {})
        made.append((_placed(space, rows, len(whole)), _placed(probed, rows, len(whole))))
    return (
        Embedded(train.keys, *made[0], train.labels, population=_population(train, columns[0])),
        Embedded(test.keys, *made[1], test.labels, content=_content(test, made[1][0])),
    )


def _placed(columns: Mapping[str, Column], rows: np.ndarray, size: int) -> Embeddings:
    """Columns of some records as those of a part of `size` records."""
    place = torch.from_numpy(rows)
    return Embeddings({n: Column(c.values, place[c.rows]) for n, c in columns.items()}, size)


def _population(train: Embedded, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Rows that have each field, and any of the fields that have such features."""
    own = {name: rows for name, rows in train.population.items() if name in columns}
    return own | ({FUSED: np.unique(np.concatenate([*own.values()]))} if own else {})


def _content(test: Embedded, columns: Embeddings) -> dict[str, Tensor]:
    """Which values are equal, of the rows of the columns."""
    return {
        name: values[torch.isin(test.aligned[name].rows, columns[name].rows)]
        for name, values in test.content.items()
        if name in columns
    }


def _aligned(
    columns: tuple[dict[str, Column], dict[str, Column]], seed: int
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Vectors in which the cosine of two fields is that of the space of these two.

    A field has a block for each pair of fields. A block of a pair that it is not in is 0, so that
    it does not count; the others have length 1.
    """
    names = list(columns[0])
    blocks: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = (
        {name: [] for name in names},
        {name: [] for name in names},
    )
    pairs = list(itertools.combinations(names, 2))
    for a, b in pairs:
        at_a, at_b = shared_rows(columns[0][a], columns[0][b])
        maps = pair_maps(vectors_of(columns[0][a])[at_a], vectors_of(columns[0][b])[at_b], seed)
        for part, side in zip(columns, blocks):
            for name in names:
                x = vectors_of(part[name])
                if name in (a, b):
                    side[name].append(maps[name == b](x))
                else:
                    side[name].append(x.new_zeros(len(x), maps[0].width))
    if not pairs:
        return columns
    train, test = (
        {n: Column(torch.cat(side[n], 1), part[n].rows) for n in names}
        for part, side in zip(columns, blocks)
    )
    return train, test
