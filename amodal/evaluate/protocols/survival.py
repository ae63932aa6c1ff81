"""How well frozen features predict a time: Cox regression with a ridge penalty, with people whose
event may be still to come.

Concordance, AUC over time, integrated Brier score and calibration (`amodal.stats.survival_scores`),
each with a 95 % interval over bootstrap draws of the people. The draws are the same for every field
and every encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.core import Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.data.class_numbers import class_numbers
from amodal.evaluate.context import Context
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import labelled
from amodal.evaluate.needs import NO_TIME, SURVIVAL_LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.risks import risk_groups
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded, known
from amodal.nn.heads.supervised import survival_of
from amodal.stats.paired_bootstrap import Drawn
from amodal.stats.survival import fit_cox, kaplan_meier
from amodal.stats.survival_scores import (
    METRICS,
    Predictions,
    bootstrap_interval,
    evaluation_times,
    scores,
)

MIN_EVENTS = 5
"""Below which nothing is fitted."""

People = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features (N, D), times, events."""


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
    """Measure each field and the fused vectors.

    A regression on the training records is tested on the test records. Where these have fewer than
    `least` events, which say next to nothing, it is cross-validated over the records of both parts.
    The encoder has then seen most of these records, though not their labels; `judged` in the spec
    says so.

    Args:
        train: Training records.
        test: Test records.
        label: TIME,EVENT, two labels.
        least: Events of the test records below which both parts are cross-validated.
        folds: Of the cross-validation, each scored by itself.
        repeats: Of the cross-validation.
        bootstrap: Draws of people for the intervals.
        most: Records to test on, and four times as many to learn from, chosen by `seed`. The cost
            is their square.
        seed: Of all that is random.
        sources: All unless set.

    Raises:
        NotApplicable: If the label is no time and event, or no field has enough events.
    """
    if label.count(",") != 1:
        raise NotApplicable(NO_TIME)
    outcomes = _outcomes(train, test, label)
    crossed = outcomes[1][1].sum() < least
    columns, others = train.probed(), test.probed()
    rows: list[Row] = []
    times: dict[str, list[float]] = {}
    groups = {}
    for source in sources or columns:
        learnt = _people(columns[source], *outcomes[0], 4 * most, seed)
        tested = _people(others[source], *outcomes[1], most, seed)
        x, time, event = (np.concatenate(both) for both in zip(learnt, tested))
        if min(e.sum() for e in ([event] if crossed else [learnt[2], tested[2]])) < MIN_EVENTS:
            continue
        if crossed:
            splits = _cross_validation((x, time, event), folds, repeats, seed)
        else:
            splits = [(learnt, tested, np.arange(len(tested[1])))]
        grid = evaluation_times(time, event, [(fit[1], fit[2]) for fit, _, _ in splits])
        parts = _predicted(splits, grid, seed)
        times[source] = grid.tolist()
        of_source = _rows(source, parts, grid, bootstrap, seed)
        if of_source:
            rows += of_source
            groups[source] = risk_groups(parts[: folds if crossed else 1])
    if not rows:
        raise NotApplicable(
            f"no field has {MIN_EVENTS} records or more with an event ({label}) to learn from"
        )
    spec: Spec = {
        "label": label,
        "kind": "survival",
        "space": "features",
        "train": len(train),
        "test": len(test),
    }
    spec["judged"] = f"{folds} folds of both parts, {repeats} times" if crossed else "test part"
    spec["times"] = times
    spec["groups"] = groups
    return Result("survival", spec | {"bootstrap": bootstrap, "seed": seed}, rows)


def _outcomes(train: Embedded, test: Embedded, label: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For both parts, times (N,), NaN where either label is missing, and events (N,) bool."""
    time_name, event_name = (name.strip() for name in label.split(","))
    events = np.concatenate([part.label(event_name) for part in (train, test)])
    times = np.concatenate([part.label(time_name) for part in (train, test)])
    if times.dtype.kind != "f":
        raise NotApplicable(f"the label {time_name!r} is no number, so it is no time")
    came = class_numbers(events)[0] == survival_of(time_name, event_name, events).event
    time = np.where(known(events), times, np.nan)
    event = came & np.isfinite(time)
    return [(time[part], event[part]) for part in (slice(len(train)), slice(len(train), None))]


def _people(column: Column, time: np.ndarray, event: np.ndarray, most: int, seed: int) -> People:
    """Features, times and events of records that have all of them."""
    rows = column.rows.numpy()
    usable = np.flatnonzero(np.isfinite(time[rows]))
    chosen = np.sort(np.random.default_rng(seed).permutation(usable)[:most])
    features = vectors_of(column).float().numpy()[chosen]
    return features, time[rows[chosen]], event[rows[chosen]]


Split = tuple[People, People, np.ndarray]
"""People to fit to, people to test on, and numbers of the latter."""


def _cross_validation(people: People, folds: int, repeats: int, seed: int) -> list[Split]:
    """All folds of all repetitions."""
    splits = []
    for repeat in range(repeats):
        fold = _divided(people[2], folds, np.random.default_rng([seed, repeat]))
        for f in range(folds):
            out = fold == f
            x, time, event = people
            fit, test = ((x[part], time[part], event[part]) for part in (~out, out))
            splits.append((fit, test, np.flatnonzero(out)))
    return splits


def _predicted(splits: Sequence[Split], times: np.ndarray, seed: int) -> list[Predictions]:
    """Predictions of the model of each split."""
    parts = []
    for (x, fit_time, fit_event), (test_x, time, event), who in splits:
        model = fit_cox((torch.from_numpy(x), fit_time, fit_event), seed=seed)
        risk = model.risk(torch.from_numpy(test_x))
        curves = model.curves(risk, times)
        parts.append(Predictions(who, time, event, risk, curves, (fit_time, fit_event)))
    return parts


def _divided(event: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) a fold for each, with numbers of events as equal as possible."""
    order = rng.permutation(len(event))
    order = order[np.argsort(event[order], kind="stable")]
    fold = np.empty(len(event), dtype=np.int64)
    fold[order] = np.arange(len(event)) % folds
    return fold


def _rows(
    source: str, parts: list[Predictions], times: np.ndarray, bootstrap: int, seed: int
) -> list[Row]:
    """Rows of one field."""
    if not len(times):
        return []
    n = len(np.unique(np.concatenate([part.who for part in parts])))
    by_chance = []
    for part in parts:  # the same prediction for everybody: the curve of all training people
        curve = np.broadcast_to(kaplan_meier(*part.train, times), part.curves.shape)
        by_chance.append(replace(part, risk=np.zeros(len(part.who)), curves=curve))
    values = scores(parts, times, draws=bootstrap, seed=seed)
    chance = scores(by_chance, times, draws=0)
    people = [part.who.tobytes() + part.time.tobytes() + part.event.tobytes() for part in parts]
    key = hashlib.sha256(b"".join(people)).hexdigest()
    events = int(sum(part.event.sum() for part in parts) * n / sum(len(part.who) for part in parts))
    return [
        {
            "source": source,
            "metric": m,
            "value": float(values[m][0]),
            "interval": bootstrap_interval(values[m]),
            "chance": float(chance[m][0]),
            "n": n,
            "events": events,
            "outcome": Drawn(np.arange(n), values[m][1:], key),
        }
        for m in METRICS
    ]


class Survival(Protocol):
    """A time until an event, predicted from frozen features."""

    name, needs, needed = "survival", (SURVIVAL_LABEL,), (labelled, labelled)
    rank = 40
    yardstick = True
    joined = False  # a regression on so many columns in each fold takes as long as all others
    measure = staticmethod(survival)

    def arguments(self, context: Context) -> dict[str, Any]:
        """Only the test part counts where the run learnt from labels: others would flatter it."""
        return super().arguments(context) | ({"least": 0} if context.labels_seen else {})

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """All of them: intervals are not averaged."""
        return list(rows)

    def draw(self, result: Result, path: Path) -> Path:
        """See `Protocol.draw`."""
        from amodal.evaluate.survival_picture import survival as picture

        return picture(result, path)


PROTOCOL = Survival()
