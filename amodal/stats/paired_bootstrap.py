"""The bootstrap over test records (Efron 1979), for metrics that are recomputed for every draw.

All outcomes are weighted by the same draws of the records, so the draws of two metrics of the same
records can be subtracted: the interval of the difference is then of paired outcomes. Intervals are
percentiles, expanded for few records (Hesterberg 2015, arXiv:1411.5279, 5.2).

Ours: `scipy.stats.bootstrap` resamples one array for one statistic, and draws anew for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

DRAWS = 1000
MIN_DRAWS = 200
MAX_CELLS = 2 * 10**7
"""Weights of all draws; with more records there are fewer draws."""
MAX_SORTED = 2 * 10**8
"""Weights that are summed in the order of a score, over all classes."""
MAX_PAIRED = 150
"""Records of the rarer kind, of which a table of all pairs is faster than ranks."""

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Outcome(ABC):
    """The outcomes of single records, from which a metric can be computed anew.

    Args:
        who: (n,) numbers of the records.
    """

    who: np.ndarray

    @property
    def units(self) -> float:
        """How many independent outcomes there are."""
        return len(self.who)

    @abstractmethod
    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """(B,) or fewer values of the metric, where the records count so often; NaN for none."""


@dataclass(frozen=True, eq=False)
class Mean(Outcome):
    """A mean, such as accuracy, Recall@k and MRR.

    Args:
        value: (n,) of the records.
    """

    value: np.ndarray

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        return _ratio(weight_BN @ self.value, weight_BN.sum(1))


@dataclass(frozen=True, eq=False)
class Classified(Outcome):
    """True and predicted classes.

    Args:
        truth: (n,) codes.
        guess: (n,) codes.
    """

    truth: np.ndarray
    guess: np.ndarray

    def counts(self, weight_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, K) records of each class that occurs, those predicted so, and those rightly so."""
        classes = np.unique(self.truth)
        true = self.truth[:, None] == classes
        guessed = self.guess[:, None] == classes
        table = np.concatenate([true, guessed, true & guessed], 1).astype(weight_BN.dtype)
        of, predicted, hits = np.split(weight_BN @ table, 3, axis=1)
        return of, predicted, hits


class BalancedAccuracy(Classified):
    """The mean over classes of the share that is right."""

    @property
    def units(self) -> float:
        """The harmonic mean of the numbers of records of the classes."""
        counts = np.unique(self.truth, return_counts=True)[1]
        return float(len(counts) / (1 / counts).sum())

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        of, _, hits = self.counts(weight_BN)
        return _ratio(np.nan_to_num(_ratio(hits, of)).sum(1), (of > 0).sum(1))


class MacroF1(Classified):
    """The mean over classes of F1."""

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        of, predicted, hits = self.counts(weight_BN)
        return _ratio(np.nan_to_num(_ratio(2 * hits, of + predicted)).sum(1), (of > 0).sum(1))


@dataclass(frozen=True, eq=False)
class MeanAuroc(Outcome):
    """The mean over classes of the area under the ROC curve of each against the rest.

    Args:
        truth: (n,) codes.
        p: (n, K) scores.
        classes: Those that the mean is over.
    """

    truth: np.ndarray
    p: np.ndarray
    classes: Sequence[int]

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        some = max(MIN_DRAWS, MAX_SORTED // (len(self.classes) * max(weight_BN.shape[1], 1)))
        w = weight_BN[:some]
        areas = []
        for c in self.classes:
            wanted = self.truth == c
            few = min(wanted.sum(), (~wanted).sum()) <= MAX_PAIRED
            areas.append((_area_by_pairs if few else _area_by_order)(self.p[:, c], wanted, w))
        table = np.stack(areas)
        return _ratio(np.nan_to_num(table).sum(0), np.isfinite(table).sum(0))


@dataclass(frozen=True, eq=False)
class Predicted(Outcome):
    """True and predicted numbers.

    Args:
        truth: (n,)
        guess: (n,)
    """

    truth: np.ndarray
    guess: np.ndarray


class Determination(Predicted):
    """R2: the share of the variance that is explained."""

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        truth = self.truth - self.truth.mean()  # small numbers, for the sake of single precision
        total = weight_BN.sum(1)
        spread = weight_BN @ np.square(truth) - _ratio((weight_BN @ truth) ** 2, total)
        return 1 - _ratio(weight_BN @ np.square(self.truth - self.guess), spread)


class RankCorrelation(Predicted):
    """Spearman's correlation; ties share their mean rank."""

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        total = weight_BN.sum(1, keepdims=True).astype(np.float64)
        x, y = (_weighted_ranks(v, weight_BN) - (total + 1) / 2 for v in (self.truth, self.guess))
        xy, xx, yy = ((weight_BN * a * b).sum(1) for a, b in ((x, y), (x, x), (y, y)))
        return _ratio(xy, np.sqrt(xx * yy))


@dataclass(frozen=True, eq=False)
class Repeated(Outcome):
    """The mean over repetitions, such as draws of few labels, which are drawn anew too.

    Args:
        parts: Of each repetition.
    """

    parts: Sequence[Outcome]

    @property
    def units(self) -> float:
        """The repetitions, which are fewer than the records."""
        return min(len(self.parts), *(part.units for part in self.parts))

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        values = [part.statistic(weight_BN) for part in self.parts]
        table = np.stack([v[: min(map(len, values))] for v in values], 1)
        count = len(self.parts)
        # the same for every encoder, so that these are paired as well
        times = np.random.default_rng(count).multinomial(
            count, np.full(count, 1 / count), len(table)
        )
        mean: np.ndarray = (table * times).sum(1) / count
        return mean


@dataclass(frozen=True, eq=False)
class Averaged(Outcome):
    """The mean over these very repetitions, such as runs with different seeds.

    Args:
        who: Of all parts together, ascending.
        parts: Of each repetition, of these records or of some of them.
    """

    parts: Sequence[Outcome]

    @property
    def units(self) -> float:
        """Those of a part, as the repetitions are not drawn."""
        return min(part.units for part in self.parts)

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        values = [
            part.statistic(
                weight_BN
                if len(part.who) == len(self.who)
                else weight_BN[:, np.searchsorted(self.who, part.who)]
            )
            for part in self.parts
        ]
        mean: np.ndarray = np.mean([v[: min(map(len, values))] for v in values], axis=0)
        return mean


@dataclass(frozen=True, eq=False)
class Drawn(Outcome):
    """A metric whose draws have been made, by a protocol that draws records itself.

    Args:
        values: (B,) of the draws.
        key: Equal where the draws are of the same records in the same order.
    """

    values: np.ndarray
    key: str

    def statistic(self, weight_BN: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        return self.values


class Bootstrap:
    """Draws of records, and the intervals of metrics and differences by them.

    Args:
        records: How many there are.
        draws: Of as many records with replacement. With many records there are fewer.
        seed: Of the draws.
        group: (records,) codes of groups that are drawn as a whole, as their records resemble each
            other; None to draw single records.

    Attributes:
        groups: How many groups there are, 0 where single records are drawn.
    """

    def __init__(
        self,
        records: int,
        *,
        draws: int = DRAWS,
        seed: int = 0,
        group: np.ndarray | None = None,
    ):
        self.draws = min(draws, max(MIN_DRAWS, MAX_CELLS // max(records, 1)))
        self.seed = seed
        which = None if group is None else np.unique(group, return_inverse=True)[1]
        self.groups = 0 if which is None or not records else int(which.max()) + 1
        units, rng = self.groups or records, np.random.default_rng(seed)
        self._weight = np.zeros((self.draws, records), dtype=np.float32)
        for row in self._weight:
            times = np.bincount(rng.integers(units, size=units), minlength=units)
            row += times if which is None else times[which]
        self._values: dict[Outcome, np.ndarray] = {}

    def values(self, outcome: Outcome) -> np.ndarray:
        """(B,) the metric for each draw."""
        if isinstance(outcome, Drawn):
            return outcome.values
        if outcome not in self._values:
            every = np.arange(self._weight.shape[1])
            whole = np.array_equal(outcome.who, every)  # spares a copy
            weight = self._weight if whole else self._weight[:, outcome.who]
            self._values[outcome] = outcome.statistic(weight)
        return self._values[outcome]

    def interval(self, outcome: Outcome) -> Interval | None:
        """95 % interval of a metric; None where it is the same in all draws, which say nothing."""
        return _percentiles(self.values(outcome), self._units(outcome))

    def difference(self, a: Outcome, b: Outcome) -> Interval | None:
        """95 % interval of the metric of `a` less that of `b`; None where they are not paired."""
        if isinstance(a, Drawn) != isinstance(b, Drawn):
            return None
        if isinstance(a, Drawn) and isinstance(b, Drawn) and a.key != b.key:
            return None
        x, y = self.values(a), self.values(b)
        some = min(len(x), len(y))
        difference = x[:some] - y[:some]
        if (difference == 0).all():
            return 0.0, 0.0
        return _percentiles(difference, min(self._units(a), self._units(b)))

    def _units(self, outcome: Outcome) -> float:
        single = isinstance(outcome, Drawn) or not self.groups
        return outcome.units if single else min(outcome.units, self.groups)


def _area_by_pairs(score: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B,) areas under the ROC curve, from a table of all pairs, which is faster for few."""
    high, low = score[wanted][:, None], score[~wanted]
    yes, no = weight[:, wanted], weight[:, ~wanted]
    right = ((high > low) + 0.5 * (high == low)).astype(weight.dtype)
    above = np.einsum("bn,bn->b", yes @ right, no)
    return _ratio(above, yes.sum(1).astype(np.float64) * no.sum(1))


def _area_by_order(score: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B,) areas under the ROC curve, from ranks."""
    order, starts, _ = _ties(score)
    ordered, wanted = weight[:, order], wanted[order]
    yes = np.add.reduceat(ordered * wanted, starts, axis=1)
    no = np.add.reduceat(ordered * ~wanted, starts, axis=1)
    below = np.cumsum(no, 1, dtype=np.float64) - no / 2
    return _ratio((yes * below).sum(1), yes.sum(1).astype(np.float64) * no.sum(1))


def _percentiles(values: np.ndarray, units: float) -> Interval | None:
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or finite.min() == finite.max():
        return None
    tail = 0.025
    if units > 1:
        tail = float(ndtr(stdtrit(units - 1, tail) * (units / (units - 1)) ** 0.5))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    above = np.asarray(above, dtype=np.float64)
    ratio: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return ratio


def _ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of values, where each different one starts in it, and which one each value is."""
    order = np.argsort(values, kind="stable")
    _, starts, which = np.unique(values[order], return_index=True, return_inverse=True)
    inverse = np.empty(len(values), dtype=np.int64)
    inverse[order] = which
    return order, starts, inverse


def _weighted_ranks(values: np.ndarray, weight_BN: np.ndarray) -> np.ndarray:
    """(B, n) mean ranks of values that occur so often."""
    order, starts, which = _ties(values)
    counts = np.add.reduceat(weight_BN[:, order], starts, axis=1).astype(np.float64)
    ranks: np.ndarray = (np.cumsum(counts, 1) - counts + (counts + 1) / 2)[:, which]
    return ranks
