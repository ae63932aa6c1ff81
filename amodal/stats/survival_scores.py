"""How good predicted risks and curves are, with an interval over bootstrap draws of the people.

Harrell's concordance; cumulative/dynamic AUC with inverse probabilities of censoring (Uno et al.
2007; Hung and Chiang 2010), averaged over times by how many have the event between them (Lambert
and Chevret 2016); Brier score with the same weights (Graf et al. 1999), integrated; and how far
predicted and observed shares with the event are apart in groups of like prediction. Agree with
scikit-survival.

Ours: the same as scikit-survival's scores (tests compare them; see `survival` for why it is no
dependency), for all draws of the bootstrap at once, and for people of different models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amodal.stats.survival import kaplan_meier

GROUPS = 5
METRICS = ("concordance", "AUC over time", "integrated Brier", "calibration error")


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model: `who` numbers its people among all; risk: log hazards; curves (n,
    T): predicted share without the event after each time; known: times and events of those that it
    learnt from, by which censoring is reckoned."""

    who: np.ndarray
    time: np.ndarray
    event: np.ndarray
    risk: np.ndarray
    curves: np.ndarray
    known: tuple[np.ndarray, np.ndarray]


def grid(
    time: np.ndarray, event: np.ndarray, learnt: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Up to nine times, the deciles of those of events, as far as everybody's censoring can be
    reckoned there. learnt: times and events of those that models learnt from."""
    times = np.unique(np.quantile(time[event], np.linspace(0.1, 0.9, 9)))
    seen = [kaplan_meier(*each, times, lost=True) > 0 for each in learnt]
    return times[np.all(seen, axis=0) & (times < time.max())]


def scores(
    parts: Sequence[Predictions], times: np.ndarray, *, draws: int = 200, seed: int = 0
) -> dict[str, np.ndarray]:
    """metric -> (1 + draws,): of the people as they are, then of bootstrap draws of them. Only
    people predicted by the same model are compared with each other. parts: of disjoint people, or
    of the same ones once more for each repetition."""
    people = 1 + max(int(part.who.max()) for part in parts)
    rng = np.random.default_rng([seed, people])
    weight = rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(np.float64)
    weight = np.concatenate([np.ones((1, people)), weight])
    return {
        "concordance": _ratio([_concordant(part, weight[:, part.who]) for part in parts]),
        "AUC over time": _mean_auc(parts, times, weight),
        "integrated Brier": _integrated(_brier(parts, times, weight), times),
        "calibration error": _calibration(parts, times, weight),
    }


def interval(values: np.ndarray) -> list[float]:
    """95 % of what `scores` gives, but for the first."""
    drawn = values[1:][np.isfinite(values[1:])]
    return np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) > 1 else [float("nan")] * 2


def _ratio(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    above, below = (np.sum(each, axis=0) for each in zip(*parts))
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _higher(risk: np.ndarray, rows: slice) -> np.ndarray:
    return (risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk)


def _blocks(n: int, cells: int = 2**24):
    """Slices of so many rows of an (n, n) table."""
    step = max(1, cells // max(n, 1))
    return (slice(i, i + step) for i in range(0, n, step))


def _concordant(part: Predictions, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = np.zeros((2, len(weight)))
    for rows in _blocks(len(part.time)):
        mine = part.time[rows, None]
        later = (mine < part.time) | (mine == part.time) & ~part.event
        known = part.event[rows, None] & later
        right = _higher(part.risk, rows) * known
        for number, table in enumerate((right, known.astype(np.float64))):
            total[number] += ((weight[:, rows] @ table) * weight).sum(1)
    return total[0], total[1]


def _mean_auc(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = []
    for t in times:
        each = []
        for part in parts:
            w = weight[:, part.who]
            case = np.where((part.time <= t) & part.event, _inverse(part, part.time), 0.0)
            control = (part.time > t).astype(np.float64)
            above = sum(
                (((w[:, rows] * case[rows]) @ _higher(part.risk, rows)) * (w * control)).sum(1)
                for rows in _blocks(len(case))
            )
            each.append((above, (w @ case) * (w @ control)))
        found.append(_ratio(each))
    left = np.stack([_left(parts, times, w) for w in weight])
    share = -np.diff(np.concatenate([np.ones((len(left), 1)), left], 1), axis=1)
    auc = np.stack(found, 1)
    there = np.where(np.isfinite(auc), share, 0)
    return _ratio([((np.nan_to_num(auc) * there).sum(1), there.sum(1))])


def _left(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Kaplan and Meier's curve of all people who are predicted."""
    time, event = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("time", "event")
    )
    return kaplan_meier(time, event, times, np.concatenate([weight[part.who] for part in parts]))


def _inverse(part: Predictions, times: np.ndarray) -> np.ndarray:
    """(T,) one over the chance to be still seen at a time; 0 where nobody was."""
    seen = kaplan_meier(*part.known, times, lost=True)
    return np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)


def _brier(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 + draws, T)"""
    above, below = np.zeros((len(weight), len(times))), np.zeros((len(weight), 1))
    for part in parts:
        over = part.time[:, None] > times
        case = (~over & part.event[:, None]) * _inverse(part, part.time)[:, None]
        each = part.curves**2 * case + (1 - part.curves) ** 2 * over * _inverse(part, times)
        above, below = (
            above + weight[:, part.who] @ each,
            below + weight[:, part.who].sum(1, keepdims=True),
        )
    return above / below


def _integrated(brier: np.ndarray, times: np.ndarray) -> np.ndarray:
    return (
        brier[:, 0]
        if len(times) < 2
        else np.trapezoid(brier, times, axis=1) / (times[-1] - times[0])
    )


def _calibration(parts: Sequence[Predictions], times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """At the middle one of the times: the mean over groups of like prediction of |predicted -
    observed share with the event|, where what is observed is Kaplan and Meier's. Groups are
    quantiles of the predictions, five of them or fewer where people are few."""
    middle = len(times) // 2
    who, time, event = (
        np.concatenate([getattr(p, n) for p in parts]) for n in ("who", "time", "event")
    )
    risk = 1 - np.concatenate([part.curves[:, middle] for part in parts])
    alike = risk.max() - risk.min() < 1e-12
    groups = 1 if alike else max(1, min(GROUPS, len(who) // 10))
    order = np.argsort(np.argsort(risk, kind="stable"), kind="stable")
    group = order * groups // len(order)
    above, below = np.zeros(len(weight)), np.zeros(len(weight))
    for g in range(groups):
        at = group == g
        w = weight[:, who[at]]
        came = np.array(
            [1 - kaplan_meier(time[at], event[at], times[middle : middle + 1], one)[0] for one in w]
        )
        mean = np.divide(w @ risk[at], w.sum(1), out=np.zeros(len(w)), where=w.sum(1) > 0)
        above, below = above + w.sum(1) * np.abs(mean - came), below + w.sum(1)
    return above / below
