"""Which fields a record is left with, and what an encoder makes of those: patterns of presence on
vectors that were made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, row_seeds
from amodal.evaluate.labels import classes_of, codes, is_number, measure
from amodal.inference.embed import Embedded
from amodal.masking.hashing import uniform

STRENGTH = 0.8
"""Of a dependence on the label: how probably a field is hidden from one half of the classes; from
the other half, 1 - this."""


@dataclass(frozen=True)
class FieldVectors:
    """Some records of an `Embedded`: x_NSD, unit vectors in the aligned space, zero where a record
    lacks the field; there_NS, bool; rows_N, int64, which records of `embedded` they are
    (ascending)."""

    embedded: Embedded
    rows: Tensor
    x: Tensor
    there: Tensor

    @staticmethod
    def of(embedded: Embedded, most: int | None = None, seed: int = 0) -> FieldVectors:
        """The records that have any field; at most `most`, chosen by a hash of their keys."""
        columns = [embedded.aligned[s] for s in embedded.sources]
        there = torch.stack([c.present(len(embedded)) for c in columns], 1)
        rows = there.any(1).nonzero().squeeze(1)
        if most is not None and len(rows) > most:
            order = uniform(
                row_seeds([embedded.keys[i] for i in rows.tolist()], salt=seed)
            ).argsort()
            rows = rows[order[:most]].sort().values
        x = torch.zeros(len(embedded), len(columns), columns[0].values.shape[1])
        for number, c in enumerate(columns):
            x[c.rows, number] = normalize(c.values.float(), dim=1)
        return FieldVectors(embedded, rows, x[rows], there[rows])

    @property
    def names(self) -> tuple[str, ...]:
        return self.embedded.sources

    def __len__(self) -> int:
        return len(self.rows)

    def label(self, name: str) -> np.ndarray:
        return self.embedded.label(name)[self.rows.numpy()]

    def at(self, index: Tensor) -> FieldVectors:
        """The records at `index` (n,) int64 ascending, or (N,) bool."""
        return FieldVectors(self.embedded, self.rows[index], self.x[index], self.there[index])

    def uniform(self, seed: int) -> Tensor:
        """(N, S) in [0, 1): a function of key, field and seed. A field is hidden where it is below
        a rate, so what is hidden at 30 % is hidden at 60 %."""
        keys = [self.embedded.keys[i] for i in self.rows.tolist()]
        return torch.stack(
            [uniform(row_seeds([f"{k}/{s}" for k in keys], salt=seed)) for s in self.names], 1
        ).float()

    def fused(self, left_NS: Tensor) -> Tensor:
        """(N, D) what the encoder makes of the fields that are left (bool, of those that are
        there): the mean of their unit vectors, or a joint network's own vector of just those. NaN
        for a record that is left with none."""
        if self.embedded.re_fuse is None:
            left = left_NS.to(self.x.dtype)
            return torch.einsum("ns,nsd->nd", left, self.x) / left.sum(1, keepdim=True)
        out = self.x.new_full((len(self), self.x.shape[2]), torch.nan)
        for pattern in left_NS.unique(dim=0):
            names = [s for s, seen in zip(self.names, pattern.tolist()) if seen]
            if not names:
                continue
            own = (left_NS == pattern).all(1)
            column = self.embedded.fused(names)
            out[own] = column.values[torch.searchsorted(column.rows, self.rows[own])].float()
        return out


def or_mean(vectors_ND: Tensor, mean_D: Tensor) -> Tensor:
    """A record that is left with nothing is taken for an average one, so that all rates are judged
    on the same records."""
    return torch.where(vectors_ND.isfinite().all(1, keepdim=True), vectors_ND, mean_D)


def numbered(vectors_ND: Tensor) -> Column:
    return Column(vectors_ND, torch.arange(len(vectors_ND)))


def side_by_side(x_NSD: Tensor, left_NS: Tensor) -> Tensor:
    """(N, S D): all fields end to end, zero where one is hidden. Zeros say to any probe what was
    hidden."""
    return (x_NSD * left_NS.unsqueeze(2)).flatten(1)


def halves(train: np.ndarray, test: np.ndarray) -> tuple[Tensor, Tensor]:
    """Labels -> two groups, 0 or 1 for each record: every second class, or below and above the
    median; -1 where unknown."""
    if is_number(train):
        middle = np.nanmedian(train)
        both = [np.where(np.isfinite(y), y > middle, -1) for y in (train, test)]
    else:
        classes = classes_of(train)
        both = [np.where((c := codes(y, classes)) >= 0, c % 2, -1) for y in (train, test)]
    return tuple(torch.from_numpy(g.astype(np.int64)) for g in both)


def depending(
    uniform_NS: Tensor, group_N: Tensor, *, turned: bool = False, strength: float = STRENGTH
) -> Tensor:
    """(N, S) bool, hidden: the fields 0, 2, … mostly from group 0 and the fields 1, 3, … mostly
    from group 1; turned round, the other way. Both groups lose as much; a group that is unknown
    (-1) loses any field with a probability of one half."""
    other = (group_N[:, None] + torch.arange(uniform_NS.shape[1]) + int(turned)) % 2
    rate = torch.where(other == 0, strength, 1 - strength)
    return uniform_NS < torch.where(group_N[:, None] < 0, torch.tensor(0.5), rate)


@dataclass(frozen=True)
class Judge:
    """Fits a probe and tests it, see `measure`; y_train, y_test: labels of the records that it is
    given."""

    fit: Callable
    y_train: np.ndarray
    y_test: np.ndarray
    few: int | None
    draws: int
    seed: int

    def __call__(self, train_ND: Tensor, tests: dict[tuple, Tensor]) -> dict[tuple, list[dict]]:
        """Rows for each test. Training records that were left with nothing (NaN) are not learnt
        from."""
        learnt = numbered(train_ND).at(train_ND.isfinite().all(1))
        columns = {key: numbered(x) for key, x in tests.items()}
        options = {"few": self.few, "draws": self.draws, "seed": self.seed}
        return measure(self.fit, learnt, self.y_train, columns, self.y_test, **options)
