"""How well frozen features predict a time: Cox regression with a ridge penalty on them, for people
whose event may be still to come.

Concordance, AUC over time, integrated Brier score and calibration (see `_survival_scores`), each
with a 95 % interval over bootstrap draws of the people; the same draws for every field and every
encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.core import Column
from amodal.data.loader import class_numbers
from amodal.evaluate.context import Context
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needs import NO_TIME, SURVIVAL_LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known
from amodal.nn.heads.supervised import survival_of
from amodal.stats.survival import fitted, kaplan_meier, log_rank
from amodal.stats.survival_scores import METRICS, Predictions, grid, interval, scores

FEWEST = 5
"""Events below which nothing is fitted."""


def survival(
    train: Embedded,
    test: Embedded,
    *,
    label: str = "",
    least: int = 20,
    folds: int = 5,
    repeats: int = 2,
    bootstrap: int = 200,
    most: int = 4000,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> Result:
    """For each field alone and for the fused vectors. label: TIME,EVENT, two labels.

    A regression on the training records is judged on the test records; but where these have fewer
    than `least` events, which say next to nothing, cross-validation over the records of both parts,
    in `folds` folds, `repeats` times, each fold judged by itself. The encoder has then seen most of
    these records, though no label of theirs (`judged` in the spec says it). bootstrap: draws of
    people for the intervals; most: records to judge by, and four times as many to learn from,
    chosen by `seed` (it costs their square); sources: all unless given.
    """
    if label.count(",") != 1:
        raise NotApplicable(NO_TIME)
    outcomes = _outcomes(train, test, label)
    crossed = outcomes[1][1].sum() < least
    columns, others = train.probed(), test.probed()
    rows, times, groups = [], {}, {}
    for source in sources or columns:
        read = zip((columns, others), outcomes, (4 * most, most))
        people = [_people(each[source], *labels, limit, seed) for each, labels, limit in read]
        if crossed:
            people = [tuple(np.concatenate(each) for each in zip(*people))]
        if min(event.sum() for _, _, event in people) < FEWEST:
            continue
        parts, times[source] = _predicted(people, folds, repeats, seed)
        found = _rows(source, parts, times[source], bootstrap, seed)
        rows, groups = (
            rows + found,
            groups | ({source: halves(parts[: folds if crossed else 1])} if found else {}),
        )
    if not rows:
        raise NotApplicable(
            f"no field has {FEWEST} records or more with an event ({label}) to learn from"
        )
    spec = {
        "label": label,
        "kind": "survival",
        "space": "features",
        "train": len(train),
        "test": len(test),
    }
    spec["judged"] = f"{folds} folds of both parts, {repeats} times" if crossed else "test part"
    spec["times"] = {source: each.tolist() for source, each in times.items()}
    spec["groups"] = groups
    return Result("survival", spec | {"bootstrap": bootstrap, "seed": seed}, rows)


def _outcomes(train: Embedded, test: Embedded, label: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of both parts, times (N,), NaN where either label is missing, and events (N,) bool."""
    names = [name.strip() for name in label.split(",")]
    events = np.concatenate([part.label(names[1]) for part in (train, test)])
    times = np.concatenate([part.label(names[0]) for part in (train, test)])
    if times.dtype.kind != "f":
        raise NotApplicable(f"the label {names[0]!r} is no number, so it is no time")
    came = class_numbers(events)[0] == survival_of(*names, events).event
    time = np.where(known(events), times, np.nan)
    return [
        (time[at], (came & np.isfinite(time))[at])
        for at in (slice(len(train)), slice(len(train), None))
    ]


def _people(
    column: Column, time: np.ndarray, event: np.ndarray, most: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Features, times and events of records that have all of them."""
    rows = column.rows.numpy()
    at = np.flatnonzero(np.isfinite(time[rows]))
    at = np.sort(np.random.default_rng(seed).permutation(at)[:most])
    return column.values.float().numpy()[at], time[rows[at]], event[rows[at]]


def _predicted(
    people: Sequence[tuple], folds: int, repeats: int, seed: int
) -> tuple[list[Predictions], np.ndarray]:
    """people: those to learn from and those to judge by, or all of them once, to be divided."""
    if len(people) == 2:
        splits = [(people[0], people[1], np.arange(len(people[1][1])))]
    else:
        [whole] = people
        splits = []
        for repeat in range(repeats):
            fold = _divided(whole[2], folds, np.random.default_rng([seed, repeat]))
            for f in range(folds):
                out = fold == f
                splits.append(
                    (*(tuple(v[at] for v in whole) for at in (~out, out)), np.flatnonzero(out))
                )
    time, event = (np.concatenate([each[i] for each in people]) for i in (1, 2))
    times = grid(time, event, [(learnt[1], learnt[2]) for learnt, _, _ in splits])
    parts = []
    for (x, *known_), (unseen, *truth), who in splits:
        model = fitted((torch.from_numpy(x), *known_), seed=seed)
        risk = model.risk(torch.from_numpy(unseen))
        parts.append(Predictions(who, *truth, risk, model.curves(risk, times), tuple(known_)))
    return parts, times


def halves(parts: Sequence[Predictions], points: int = 200) -> dict:
    """Kaplan and Meier's curves of those predicted to be at low and at high risk, below and above
    the median of the same model, and p of the log-rank test between them (too small by a little
    where models have learnt from each other's people)."""
    time, event = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("time", "event")
    )
    high = np.concatenate([part.risk > np.median(part.risk) for part in parts])
    low_high = {"low": ~high, "high": high}
    last = {name: float(time[half].max(initial=0.0)) for name, half in low_high.items()}
    steps = np.unique(time[event])
    steps = steps if len(steps) <= points else np.quantile(steps, np.linspace(0, 1, points))
    at = np.unique(np.concatenate([[0.0], steps, list(last.values())]))
    curves = {
        name: kaplan_meier(time[half], event[half], at).tolist() for name, half in low_high.items()
    }
    n = {name: int(half.sum()) for name, half in low_high.items()}
    return {
        "times": at.tolist(),
        **curves,
        "last": last,
        "n": n,
        "p": log_rank(time, event, high)[1],
    }


def _divided(event: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) a fold for each, which have as many events as each other as far as they can."""
    order = rng.permutation(len(event))
    order = order[np.argsort(event[order], kind="stable")]
    fold = np.empty(len(event), dtype=np.int64)
    fold[order] = np.arange(len(event)) % folds
    return fold


def _rows(
    source: str, parts: list[Predictions], times: np.ndarray, bootstrap: int, seed: int
) -> list[dict]:
    if not len(times):
        return []
    n = len(np.unique(np.concatenate([part.who for part in parts])))
    by_chance = []
    for part in parts:  # the same prediction for everybody: what is known of all
        curve = np.broadcast_to(kaplan_meier(*part.known, times), part.curves.shape)
        by_chance.append(
            Predictions(part.who, part.time, part.event, np.zeros(len(part.who)), curve, part.known)
        )
    found, chance = (
        scores(parts, times, draws=bootstrap, seed=seed),
        scores(by_chance, times, draws=0),
    )
    events = int(sum(part.event.sum() for part in parts) * n / sum(len(part.who) for part in parts))
    return [
        {"source": source, "metric": m, "value": float(found[m][0]), "interval": interval(found[m])}
        | {"chance": float(chance[m][0]), "n": n, "events": events}
        for m in METRICS
    ]


class Survival(Protocol):
    """A time until an event, predicted from frozen features."""

    name, needs = "survival", (SURVIVAL_LABEL,)
    rank = 40
    measure = staticmethod(survival)

    def arguments(self, context: Context) -> dict[str, Any]:
        """The test part alone is judged on where the run has learnt from labels: others would
        flatter it."""
        return super().arguments(context) | ({"least": 0} if context.labels_seen else {})

    def shortened(self, rows: Sequence[dict]) -> list[dict]:
        """All of them: intervals are not averaged."""
        return list(rows)

    def draw(self, result: Result, path: Path) -> Path:
        from amodal.evaluate.survival_picture import survival as picture

        return picture(result, path)


PROTOCOL = Survival()
