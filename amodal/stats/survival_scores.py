"""Scores of predicted risks and survival curves, with bootstrap intervals over people.

Harrell's concordance; cumulative/dynamic AUC with inverse probabilities of censoring (Uno et al.
2007; Hung and Chiang 2010), averaged over times by how many have the event between them (Lambert
and Chevret 2016); Brier score with the same weights (Graf et al. 1999), integrated; and
calibration, the distance of predicted and observed shares with the event in groups of similar
prediction.

Ours: the same as scikit-survival's scores (tests compare them; see `survival` for why it is no
dependency), for all draws of the bootstrap at once, and for people of different models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid

from amodal.stats.survival import kaplan_meier

GROUPS = 5
METRICS = ("concordance", "AUC over time", "integrated Brier", "calibration error")


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for n people.

    Args:
        who: (n,) numbers of these people among all.
        time: (n,)
        event: (n,) bool.
        risk: (n,) log hazards.
        curves: (n, T) predicted share without the event after each time.
        train: Times and events of the people that the model learnt from, by which censoring is
            estimated.
    """

    who: np.ndarray
    time: np.ndarray
    event: np.ndarray
    risk: np.ndarray
    curves: np.ndarray
    train: tuple[np.ndarray, np.ndarray]


def evaluation_times(
    time: np.ndarray, event: np.ndarray, train: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Up to nine times: the deciles of the times of events.

    Left out are times at which some model's censoring cannot be estimated.

    Args:
        time: (N,) of all people.
        event: (N,) bool.
        train: Times and events that each model learnt from.
    """
    times = np.unique(np.quantile(time[event], np.linspace(0.1, 0.9, 9)))
    uncensored = [kaplan_meier(*people, times, censoring=True) > 0 for people in train]
    usable: np.ndarray = np.all(uncensored, axis=0) & (times < time.max())
    return np.asarray(times[usable])


def scores(
    parts: Sequence[Predictions],
    times: np.ndarray,
    *,
    draws: int = 200,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
) -> dict[str, np.ndarray]:
    """Compute metrics.

    Only people predicted by the same model are compared with each other.

    Args:
        parts: Of disjoint people, or of the same ones once more for each repetition.
        times: (T,) of the curves.
        draws: Of the bootstrap.
        seed: Of the draws.
        metrics: Of `METRICS`; the first two read no curves.

    Returns:
        metric -> (1 + draws,): of the people as they are, then of bootstrap draws of them.
    """
    people = 1 + max(int(part.who.max()) for part in parts)
    rng = np.random.default_rng([seed, people])
    weight = rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(np.float64)
    weight = np.concatenate([np.ones((1, people)), weight])
    computed = {
        "concordance": lambda: _ratio([_concordant(part, weight[:, part.who]) for part in parts]),
        "AUC over time": lambda: _mean_auc(parts, times, weight),
        "integrated Brier": lambda: _integrated(_brier(parts, times, weight), times),
        "calibration error": lambda: _calibration(parts, times, weight),
    }
    return {metric: computed[metric]() for metric in metrics}


def bootstrap_interval(values: np.ndarray) -> list[float]:
    """95 % interval of a metric that `scores` gave."""
    drawn = values[1:][np.isfinite(values[1:])]
    return np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) > 1 else [float("nan")] * 2


def _ratio(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The sum of numerators over that of denominators, NaN where the latter is 0."""
    above, below = (np.sum(values, axis=0) for values in zip(*parts))
    ratio: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return ratio


def _higher(risk: np.ndarray, rows: slice) -> np.ndarray:
    """1 where the row's risk is higher than the column's, 1/2 where both are equal."""
    higher: np.ndarray = (risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk)
    return higher


def _blocks(n: int, cells: int = 2**24) -> Iterator[slice]:
    """Slices of the rows of an (n, n) table, each of at most so many cells."""
    step = max(1, cells // max(n, 1))
    return (slice(i, i + step) for i in range(0, n, step))


def _concordant(part: Predictions, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of pairs in the right order, and of all pairs whose order is known."""
    total = np.zeros((2, len(weight)))
    for rows in _blocks(len(part.time)):
        time = part.time[rows, None]
        later = (time < part.time) | (time == part.time) & ~part.event
        known = part.event[rows, None] & later
        right = _higher(part.risk, rows) * known
        for number, table in enumerate((right, known.astype(np.float64))):
            total[number] += ((weight[:, rows] @ table) * weight).sum(1)
    return total[0], total[1]


def _mean_auc(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 + draws,) AUC, averaged over times."""
    auc_at = []
    for t in times:
        ratios = []
        for part in parts:
            w = weight[:, part.who]
            case = np.where((part.time <= t) & part.event, _inverse(part, part.time), 0.0)
            control = (part.time > t).astype(np.float64)
            above = np.zeros(len(w))
            for rows in _blocks(len(case)):
                higher = (w[:, rows] * case[rows]) @ _higher(part.risk, rows)
                above += (higher * (w * control)).sum(1)
            ratios.append((above, (w @ case) * (w @ control)))
        auc_at.append(_ratio(ratios))
    survival = np.stack([_survival(parts, times, w) for w in weight])
    share = -np.diff(np.concatenate([np.ones((len(survival), 1)), survival], 1), axis=1)
    auc = np.stack(auc_at, 1)
    usable = np.where(np.isfinite(auc), share, 0)
    return _ratio([((np.nan_to_num(auc) * usable).sum(1), usable.sum(1))])


def _survival(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The Kaplan-Meier curve of all people who are predicted."""
    time = np.concatenate([part.time for part in parts])
    event = np.concatenate([part.event for part in parts])
    return kaplan_meier(time, event, times, np.concatenate([weight[part.who] for part in parts]))


def _inverse(part: Predictions, times: np.ndarray) -> np.ndarray:
    """(T,) one over the probability to be still observed at a time; 0 where nobody was."""
    seen = kaplan_meier(*part.train, times, censoring=True)
    inverse: np.ndarray = np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)
    return inverse


def _brier(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 + draws, T) Brier scores."""
    above, below = np.zeros((len(weight), len(times))), np.zeros((len(weight), 1))
    for part in parts:
        over = part.time[:, None] > times
        case = (~over & part.event[:, None]) * _inverse(part, part.time)[:, None]
        error = part.curves**2 * case + (1 - part.curves) ** 2 * over * _inverse(part, times)
        above = above + weight[:, part.who] @ error
        below = below + weight[:, part.who].sum(1, keepdims=True)
    return above / below


def _integrated(brier: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean over times, by trapezoids."""
    if len(times) < 2:
        return brier[:, 0]
    return np.asarray(trapezoid(brier, times, axis=1) / (times[-1] - times[0]))


def _calibration(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Calibration error at the middle one of the times.

    The mean over groups of similar prediction of |predicted - observed share with the event|;
    observed is Kaplan and Meier's. Groups are quantiles of the predictions, five of them or fewer
    where people are few.
    """
    middle = len(times) // 2
    who = np.concatenate([part.who for part in parts])
    time = np.concatenate([part.time for part in parts])
    event = np.concatenate([part.event for part in parts])
    risk = 1 - np.concatenate([part.curves[:, middle] for part in parts])
    alike = risk.max() - risk.min() < 1e-12
    groups = 1 if alike else max(1, min(GROUPS, len(who) // 10))
    order = np.argsort(np.argsort(risk, kind="stable"), kind="stable")
    group = order * groups // len(order)
    above, below = np.zeros(len(weight)), np.zeros(len(weight))
    for g in range(groups):
        members = group == g
        w, at_middle = weight[:, who[members]], times[middle : middle + 1]
        came = np.array(
            [1 - kaplan_meier(time[members], event[members], at_middle, one)[0] for one in w]
        )
        mean = np.divide(w @ risk[members], w.sum(1), out=np.zeros(len(w)), where=w.sum(1) > 0)
        above, below = above + w.sum(1) * np.abs(mean - came), below + w.sum(1)
    return above / below
