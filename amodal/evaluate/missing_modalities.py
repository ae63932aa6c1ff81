"""Missing fields, simulated on vectors that were computed once.

Some fields of a record are hidden, and the encoder fuses the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, row_seeds
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.labels import Fit, classes_of, codes, is_number, measure
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.masking.hashing import uniform

STRENGTH = 0.8
"""For hiding that depends on the label: the probability that a field is hidden from one half of the
classes. From the other half it is 1 - STRENGTH."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class FieldVectors:
    """N records of an `Embedded`, with all S fields in one tensor.

    Args:
        embedded: Where the records are from.
        rows: (N,) int64 rows of `embedded`, ascending.
        x: (N, S, D) unit vectors of the aligned space, zero where a record lacks the field.
        present: (N, S) bool, which fields a record has.
    """

    embedded: Embedded
    rows: Tensor
    x: Tensor
    present: Tensor

    @staticmethod
    def of(embedded: Embedded, most: int | None = None, seed: int = 0) -> FieldVectors:
        """The records that have any field.

        Args:
            embedded: Records with vectors.
            most: At most this many, chosen by a hash of their keys; None for all.
            seed: Of that choice.
        """
        columns = [embedded.aligned[s] for s in embedded.sources]
        present = torch.stack([c.present(len(embedded)) for c in columns], 1)
        rows = present.any(1).nonzero().squeeze(1)
        if most is not None and len(rows) > most:
            keys = [embedded.keys[i] for i in rows.tolist()]
            order = uniform(row_seeds(keys, salt=seed)).argsort()
            rows = rows[order[:most]].sort().values
        x = torch.zeros(len(embedded), len(columns), columns[0].flat.shape[1])
        for number, c in enumerate(columns):
            x[c.rows, number] = normalize(vectors_of(c).float(), dim=1)
        return FieldVectors(embedded, rows, x[rows], present[rows])

    @property
    def names(self) -> tuple[str, ...]:
        """The S fields."""
        return self.embedded.sources

    def __len__(self) -> int:
        return len(self.rows)

    def label(self, name: str) -> np.ndarray:
        """(N,) labels of these records."""
        return np.asarray(self.embedded.label(name)[self.rows.numpy()])

    def select(self, index: Tensor) -> FieldVectors:
        """The records at `index`, (n,) int64 ascending or (N,) bool."""
        return FieldVectors(self.embedded, self.rows[index], self.x[index], self.present[index])

    def uniform(self, seed: int) -> Tensor:
        """(N, S) in [0, 1), a function of key, field and seed.

        A field is hidden where this is below a rate. So what is hidden at 30 % is hidden at 60 %.
        """
        keys = [self.embedded.keys[i] for i in self.rows.tolist()]
        return torch.stack(
            [uniform(row_seeds([f"{k}/{s}" for k in keys], salt=seed)) for s in self.names], 1
        ).float()

    def fused(self, visible_NS: Tensor) -> Tensor:
        """Fuse the visible fields of each record.

        Args:
            visible_NS: bool, which fields are visible; a subset of `present`.

        Returns:
            (N, D): the mean of the unit vectors, or the vector that a joint network makes of just
            these fields. NaN for a record without a visible field.
        """
        if self.embedded.re_fuse is None:
            visible = visible_NS.to(self.x.dtype)
            return torch.einsum("ns,nsd->nd", visible, self.x) / visible.sum(1, keepdim=True)
        out = self.x.new_full((len(self), self.x.shape[2]), torch.nan)
        for pattern in torch.unique(visible_NS, dim=0):
            names = [s for s, shown in zip(self.names, pattern.tolist()) if shown]
            if not names:
                continue
            records = (visible_NS == pattern).all(1)
            column = self.embedded.fused(names)
            place = torch.searchsorted(column.rows, self.rows[records])
            out[records] = vectors_of(column)[place].float()
        return out


def fill_nan(vectors_ND: Tensor, mean_D: Tensor) -> Tensor:
    """The vectors, with the mean in place of those that are NaN.

    A record without a visible field counts as an average one, so that all rates are measured on the
    same records.
    """
    return torch.where(vectors_ND.isfinite().all(1, keepdim=True), vectors_ND, mean_D)


def concatenate_fields(x_NSD: Tensor, visible_NS: Tensor) -> Tensor:
    """(N, S D): the vectors of all fields end to end, zero where one is hidden.

    Zeros tell any probe what was hidden.
    """
    return (x_NSD * visible_NS.unsqueeze(2)).flatten(1)


def label_groups(train: np.ndarray, test: np.ndarray) -> tuple[Tensor, Tensor]:
    """Divide records into two groups by their labels.

    Args:
        train: (N,) labels.
        test: (M,) labels.

    Returns:
        int64 groups of both: every second class, or above the training median, is 1; -1 where the
        label is unknown.
    """
    if is_number(train):
        middle = np.nanmedian(train)
        first, second = (np.where(np.isfinite(y), y > middle, -1) for y in (train, test))
    else:
        classes = classes_of(train)
        first, second = (np.where((c := codes(y, classes)) >= 0, c % 2, -1) for y in (train, test))
    return torch.from_numpy(first.astype(np.int64)), torch.from_numpy(second.astype(np.int64))


def label_dependent_mask(
    uniform_NS: Tensor, group_N: Tensor, *, reverse: bool = False, strength: float = STRENGTH
) -> Tensor:
    """Hide fields depending on the label.

    Group 0 mostly loses the fields 0, 2, … and group 1 the fields 1, 3, …. Both groups lose as
    much. A record of an unknown group (-1) loses any field with a probability of one half.

    Args:
        uniform_NS: Random numbers in [0, 1), see `FieldVectors.uniform`.
        group_N: int64, see `label_groups`.
        reverse: Exchange the groups.
        strength: The probability that a field is hidden from the group that mostly loses it.

    Returns:
        (N, S) bool, hidden fields.
    """
    other = (group_N[:, None] + torch.arange(uniform_NS.shape[1]) + int(reverse)) % 2
    rate = torch.where(other == 0, strength, 1 - strength)
    return uniform_NS < torch.where(group_N[:, None] < 0, torch.tensor(0.5), rate)


@dataclass(frozen=True)
class ProbeEvaluator:
    """Fits a probe on training vectors and tests it on others, see `measure`.

    Args:
        fit: The probe.
        y_train: (N,) labels of the training records.
        y_test: (M,) labels of the test records.
        few: Labels of each class to learn from, None for all.
        draws: Draws of these few.
        seed: Of the draws.
    """

    fit: Fit
    y_train: np.ndarray
    y_test: np.ndarray
    few: int | None
    draws: int
    seed: int

    def __call__(self, train_ND: Tensor, tests: Mapping[Key, Tensor]) -> dict[Key, list[Row]]:
        """Measure one fitted probe.

        Args:
            train_ND: Training vectors. Those that are NaN are left out.
            tests: name -> (M, D) test vectors.

        Returns:
            name -> rows.
        """
        train = _column(train_ND).at(train_ND.isfinite().all(1))
        return measure(
            self.fit,
            train,
            self.y_train,
            {name: _column(x) for name, x in tests.items()},
            self.y_test,
            few=self.few,
            draws=self.draws,
            seed=self.seed,
        )


def _column(vectors_ND: Tensor) -> Column:
    return Column(vectors_ND, torch.arange(len(vectors_ND)))
