"""The metric of a task on predictions of single records, with a bootstrap interval.

Predictors of any library are scored here alike; amodal's protocols score encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from amodal.data import class_numbers
from amodal.inference.embed import known
from amodal.nn.heads.supervised import survival_of
from amodal.stats.ranking import chance_of
from testbeds.testbed import Records, Task

DRAWS = 1000
"""Of a bootstrap."""
MIN_GROUPS = 10
"""Groups of a split (people, blocks) from which on groups are drawn and not records."""

Weighted = Callable[[np.ndarray], float]
"""(n,) how often each record was drawn -> the metric."""


@dataclass(frozen=True)
class Score:
    """A metric.

    Args:
        value: of all records.
        low: the 2.5th percentile over draws of records.
        high: the 97.5th.
        chance: what a blind guess gets.
        n: records.
        resampled: what a draw is of: "records", or the name of the groups.
    """

    value: float
    low: float
    high: float
    chance: float
    n: int
    resampled: str


@dataclass(frozen=True)
class Piece:
    """Some records and what was predicted of them by one model.

    Args:
        records: n of them.
        prediction: see `testbeds.Predict`.
    """

    records: Records
    prediction: np.ndarray


def eligible(records: Records, task: Task) -> Records:
    """The records that a task can be asked about: with its label, and with its fields.

    A retrieval needs both fields, other tasks any of their fields.
    """
    data = records.dataset
    fields = task.fields or tuple(data.fields)
    here = np.stack([data.present(field)[records.rows] for field in fields])
    usable = np.asarray(here.all(0) if task.protocol == "retrieval" else here.any(0))
    for name in task.labels:
        usable &= known(records.label(name))
    return records.at(usable)


def outcomes(records: Records, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) float64 and events (n,) bool of a survival task."""
    time, event = task.labels
    every = records.dataset.label(event)
    came = class_numbers(every)[0] == survival_of(time, event, every).event
    return records.label(time), came[records.rows]


def score(task: Task, pieces: Sequence[Piece], *, seed: int = 0, draws: int = DRAWS) -> Score:
    """The metric of a task.

    Args:
        task: whose metric.
        pieces: tested records; more than one where folds were cross-validated, and then records are
            compared within a piece only.
        seed: of the draws.
        draws: of records, or of groups where there are `MIN_GROUPS` or more.
    """
    metric, chance = _metric(task, pieces)
    names, resampled = _groups(pieces)
    unique, group = np.unique(np.array(names), return_inverse=True)
    rng, n = np.random.default_rng(seed), len(names)
    drawn = [
        metric(
            np.bincount(rng.integers(len(unique), size=len(unique)), minlength=len(unique))[group]
        )
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    value = metric(np.ones(n, dtype=np.int64))
    return Score(value, float(low), float(high), chance, n, resampled)


def _groups(pieces: Sequence[Piece]) -> tuple[list[str], str]:
    """The group of each record of all pieces, and what groups are."""
    keys = [key for piece in pieces for key in piece.records.keys]
    data = pieces[0].records.dataset
    by = data.schema.split_by
    if not by:
        return keys, "records"
    cells = data.reader.cells(by)
    groups = [str(cells[i]) for piece in pieces for i in piece.records.rows]
    return (groups, by) if len(set(groups)) >= MIN_GROUPS else (keys, "records")


def _metric(task: Task, pieces: Sequence[Piece]) -> tuple[Weighted, float]:
    if task.protocol == "retrieval":
        return _recall(task, pieces)
    if task.protocol == "survival":
        return _concordance(task, pieces), 0.5
    truth = np.concatenate([piece.records.label(str(task.label)) for piece in pieces])
    guess = np.concatenate([piece.prediction for piece in pieces])
    if task.is_number:
        return (_spearman if task.metric == "Spearman" else _r2)(truth, guess.astype(float)), 0.0
    right = (truth == guess).astype(np.float64)
    if task.metric == "accuracy":
        _, counts = np.unique(truth.astype(str), return_counts=True)
        return lambda w: float(right @ w / w.sum()), float(counts.max() / len(truth))
    classes, code = np.unique(truth.astype(str), return_inverse=True)

    def balanced(w: np.ndarray) -> float:
        drawn = np.bincount(code, w, len(classes))
        hits = np.bincount(code, w * right, len(classes))
        return float(np.mean(hits[drawn > 0] / drawn[drawn > 0]))

    return balanced, 1 / len(classes)


def _spearman(truth: np.ndarray, guess: np.ndarray) -> Weighted:
    def of(w: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(w)), w)
        a, b = rankdata(truth[rows]), rankdata(guess[rows])
        if a.std() == 0 or b.std() == 0:
            return 0.0  # a constant ranks nothing
        return float(np.corrcoef(a, b)[0, 1])

    return of


def _r2(truth: np.ndarray, guess: np.ndarray) -> Weighted:
    def of(w: np.ndarray) -> float:
        spread = w @ np.square(truth - np.average(truth, weights=w))
        return float(1 - w @ np.square(truth - guess) / spread) if spread > 0 else float("nan")

    return of


def _recall(task: Task, pieces: Sequence[Piece]) -> tuple[Weighted, float]:
    """Recall@k; equal values of the gallery are equally right, ties count as on average."""
    k, hits, chances = int(task.metric.partition("@")[2]), [], []
    for piece in pieces:
        same = content(piece.records, task.fields[1])
        similar = np.asarray(piece.prediction, dtype=np.float64)
        wrong = same[:, None] != same
        right = np.where(wrong, -np.inf, similar).max(1, keepdims=True)
        ahead = ((similar > right) & wrong).sum(1)
        tied = ((similar == right) & wrong).sum(1)
        hits.append(np.clip((k - ahead) / (tied + 1), 0, 1))
        _, inverse, counts = np.unique(same, return_inverse=True, return_counts=True)
        chances.append(chance_of(counts[inverse], len(same), (k,))[f"recall@{k}"])
    hit = np.concatenate(hits)
    return lambda w: float(hit @ w / w.sum()), float(np.mean(chances))


def content(records: Records, field: str) -> np.ndarray:
    """(n,) int64, equal for records whose values of a field are equal."""
    codes: dict[bytes, int] = {}
    values = records.values(field)
    found = [b"" if value is None else np.ascontiguousarray(value).tobytes() for value in values]
    return np.array([codes.setdefault(value, len(codes)) for value in found], dtype=np.int64)


def _concordance(task: Task, pieces: Sequence[Piece]) -> Weighted:
    """Harrell's C over pairs within a piece; see `amodal.stats.survival.concordance`."""
    blocks, start = [], 0
    for piece in pieces:
        time, event = outcomes(piece.records, task)
        risk = np.asarray(piece.prediction, dtype=np.float64)
        later = (time[:, None] < time) | (time[:, None] == time) & ~event
        comparable = (event[:, None] & later).astype(np.float32)
        higher = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
        place = slice(start, start + len(time))
        blocks.append((place, comparable, (comparable * higher).astype(np.float32)))
        start += len(time)

    def of(w: np.ndarray) -> float:
        above = below = 0.0
        for place, comparable, concordant in blocks:
            one = w[place].astype(np.float32)
            above += float(one @ concordant @ one)
            below += float(one @ comparable @ one)
        return above / below if below else float("nan")

    return of
