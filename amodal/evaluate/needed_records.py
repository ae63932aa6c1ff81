"""Which records a protocol reads, so that no others are embedded.

A protocol says it by `needed`: a function for its training records and one for its test records.
Each sees what is known before any value is decoded: labels, and which fields a record has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amodal.core.embeddings import FUSED
from amodal.data import Bad, Dataset
from amodal.evaluate.labels import draws_of
from amodal.inference.embed import known

if TYPE_CHECKING:
    from amodal.evaluate.context import Context

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PartRecords:
    """The records of a part, before any is embedded.

    Args:
        dataset: Where they are.
        rows: (N,) their numbers in it.
        present: Field -> (N,) bool, which records have a value of it.
    """

    dataset: Dataset
    rows: npt.NDArray[np.int64]
    present: Mapping[str, Mask]

    @staticmethod
    def of(dataset: Dataset, rows: npt.NDArray[np.int64]) -> PartRecords:
        """The records of a dataset at `rows`."""
        return PartRecords(
            dataset, rows, {field: dataset.present(field)[rows] for field in dataset.fields}
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Name -> (N,) labels."""
        return {name: self.dataset.label(name)[self.rows] for name in self.dataset.labels}

    def labelled(self, label: str | None) -> Mask:
        """(N,) bool: records with a label; with both labels of "TIME,EVENT"; none for None."""
        if not label:
            return np.zeros(len(self), dtype=bool)
        names = [label] if label in self.labels else [name.strip() for name in label.split(",")]
        columns = [known(self.labels[name]) for name in names if name in self.labels]
        return np.all(columns, 0) if columns else np.zeros(len(self), dtype=bool)

    def population(self) -> dict[str, npt.NDArray[np.int64]]:
        """Source, or `fused` -> the rows that have it."""
        everything = np.any([*self.present.values()], 0)
        return {s: np.flatnonzero(mask) for s, mask in self.present.items()} | {
            FUSED: np.flatnonzero(everything)
        }

    def without(self, bad: Iterable[Bad]) -> PartRecords:
        """The same records without values that could not be read."""
        row = {self.dataset.keys[number]: i for i, number in enumerate(self.rows.tolist())}
        present = {field: mask.copy() for field, mask in self.present.items()}
        for value in bad:
            present[value.field][row[value.key]] = False
        return replace(self, present=present)


Needed = Callable[[PartRecords, "Context"], Mask]
"""(records of a part, context) -> (N,) bool: those that a protocol reads."""


def every_record(part: PartRecords, context: Context) -> Mask:
    """All of them."""
    return np.ones(len(part), dtype=bool)


def no_record(part: PartRecords, context: Context) -> Mask:
    """None of them: the protocol reads labels at most."""
    return np.zeros(len(part), dtype=bool)


def labelled(part: PartRecords, context: Context) -> Mask:
    """Those with the label of the context."""
    return part.labelled(context.label)


def drawn(part: PartRecords, context: Context) -> Mask:
    """Those with the label; of these, where few labels are used, the ones that are drawn."""
    few = getattr(context.options, "few", None)
    if few is None or few < 1 or context.label not in part.labels:
        return part.labelled(context.label)
    return few_drawn(part, context, few, context.options.draws)


def few_drawn(part: PartRecords, context: Context, few: int, draws: int) -> Mask:
    """Those of some draws of so many labels a class; none for a label that is not there.

    Args:
        part: Records of a part.
        context: Its label and seed.
        few: Labels of each class, 0 for none.
        draws: How often they are drawn.
    """
    mask, wanted = part.labelled(context.label), np.zeros(len(part), dtype=bool)
    if few < 1 or context.label not in part.labels:
        return wanted
    for rows in part.population().values():
        pool = rows[mask[rows]]
        for picked in draws_of(part.labels[context.label], pool, few, draws, context.seed):
            wanted[pool[picked]] = True
    return wanted


def labelled_by(option: str) -> Needed:
    """Those with the label that an option names."""

    def needed(part: PartRecords, context: Context) -> Mask:
        return part.labelled(getattr(context.options, option))

    return needed


EVERYTHING: tuple[Needed, Needed] = (every_record, every_record)
"""What a protocol reads that does not say it."""


def sampled(rows: npt.NDArray[np.int64], most: int, seed: int) -> npt.NDArray[np.int64]:
    """At most so many of some rows, ascending, chosen by `seed`."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
