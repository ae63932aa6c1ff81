"""Average precision of more than one value a record, for draws of the records.

Ours: average_precision_score of scikit-learn takes one set of weights at a time, and the
bootstrap has hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amodal.stats.paired_bootstrap import MIN_DRAWS, Outcome

MAX_WEIGHTS = 2 * 10**8
"""Weights that are summed in the order of a score, over all values."""


def average_precision(score: np.ndarray, wanted: np.ndarray, weight_BN: np.ndarray) -> np.ndarray:
    """The sum over ranks of precision times the step of recall; equal scores are one rank.

    Args:
        score: (N,) higher is ranked first.
        wanted: (N,) bool.
        weight_BN: How often each counts, for B draws.

    Returns:
        (B,), NaN where nothing is wanted.
    """
    order = np.argsort(-score, kind="stable")
    _, starts = np.unique(-score[order], return_index=True)
    ordered = weight_BN[:, order].astype(np.float64)
    hits = np.add.reduceat(ordered * wanted[order], starts, axis=1)
    found = np.cumsum(np.add.reduceat(ordered, starts, axis=1), 1)
    precision = np.cumsum(hits, 1) / np.maximum(found, 1e-300)
    total = hits.sum(1)
    value: np.ndarray = np.divide(
        (precision * hits).sum(1), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return value


@dataclass(frozen=True, eq=False)
class Precision(Outcome):
    """Scores of values that records have or have not.

    Args:
        truth: (n, K) bool.
        score: (n, K).
    """

    truth: np.ndarray
    score: np.ndarray

    def some(self, weight_BN: np.ndarray) -> np.ndarray:
        """As many of the draws as are computed in time."""
        return weight_BN[: max(MIN_DRAWS, MAX_WEIGHTS // max(self.truth.size, 1))]


class MeanPrecision(Precision):
    """The mean over values of average precision."""

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        weight = self.some(weight_BN)
        each = [average_precision(s, t, weight) for s, t in zip(self.score.T, self.truth.T)]
        table = np.stack(each)
        count = np.isfinite(table).sum(0)
        value: np.ndarray = np.where(
            count > 0, np.nan_to_num(table).sum(0) / np.maximum(count, 1), np.nan
        )
        return value


class MicroPrecision(Precision):
    """Average precision of all pairs of record and value in one ranking."""

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        weight = np.repeat(self.some(weight_BN), self.truth.shape[1], axis=1)
        return average_precision(self.score.ravel(), self.truth.ravel(), weight)
