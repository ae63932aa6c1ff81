"""The winner of a comparison, trained for as long as the rest of the budget allows.

Candidates are compared over few steps, since there are many. What wins is worth more of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from amodal.evaluate.intervals import QUANTILE
from amodal.studies.comparison import ALONE, JOINED, LONGER, Comparison, Entry
from amodal.studies.outcome import Outcomes
from amodal.studies.study import Job, Study
from amodal.studies.trainer import Setup

LEAST = 2
"""How many times the steps of the last rung there have to be at least."""
Measure = Callable[[Job, str], dict[str, float]]
"""Trains a job into a folder of the comparison, of that name. Returns what it has on the validation
part by features, `ALONE` and where there are such `JOINED`, and its standard error as `error`."""


def longer_steps(
    study: Study, setup: Setup, outcomes: Outcomes, name: str, *, left: float, most: int
) -> int:
    """For how many steps a winner can be trained in the time that is left; 0 if it is not worth it.

    Args:
        study: That it has won.
        setup: The data.
        outcomes: Of all trials.
        name: Of the winner.
        left: Seconds.
        most: Steps.
    """
    trials = [
        (int(outcome.details["steps"]), outcome.seconds)
        for cell, outcome in outcomes.items()
        if cell.candidate == name and outcome.score is not None
    ]
    last = job_of(study, name)
    fixed, pace = line(trials)
    if not pace > 0:
        return 0
    # it is measured on both parts, and if it is no better, what won is trained after all
    reserved = 3 * fixed + pace * setup.steps(last)
    steps = min(int((left - reserved) / pace), most)
    if steps < 1 or setup.steps(replace(last, steps=steps)) < LEAST * setup.steps(last):
        return 0
    return steps


def line(trials: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Seconds that a trial takes whatever its steps, and seconds of a step, by least squares.

    Where trials of more steps took no longer, all of the time is laid to the steps: then fewer are
    expected to be paid for, not more.

    Args:
        trials: (steps, seconds).
    """
    if not trials:
        return 0.0, 0.0
    steps, seconds = np.array(trials, dtype=float).T
    spread = ((steps - steps.mean()) ** 2).sum()
    pace = ((steps - steps.mean()) * (seconds - seconds.mean())).sum() / spread if spread else 0.0
    fixed = seconds.mean() - pace * steps.mean()
    if pace <= 0 or fixed < 0:
        return 0.0, float((seconds / np.maximum(steps, 1)).max())
    return float(fixed), float(pace)


def job_of(study: Study, name: str) -> Job:
    """The first trial of a candidate on the last rung."""
    return study.job(study.cells([name], study.rungs - 1)[0])


def train_longer(
    result: Comparison,
    winner: Entry,
    job: Job,
    steps: Callable[[], int],
    measure: Measure,
    save: Callable[[Comparison], None],
) -> Entry:
    """Train the winner for more steps, and take that run where it is better on validation.

    What was decided before a kill holds: the number of steps is stored before they are taken, and
    what was measured before the run is taken.

    Args:
        result: Its line of the winner is replaced by that of the longer run if it is better.
        winner: That line.
        job: Of the winner, on the last rung.
        steps: How many; 0 for none. Asked once.
        measure: See `Measure`.
        save: Writes the comparison.

    Returns:
        The line of the winner.
    """
    assert result.out is not None
    if LONGER not in result.about:
        result.about[LONGER] = {"steps": steps()}
        save(result)
    about = result.about[LONGER]
    if not about["steps"]:
        return winner
    if "values" not in about:
        about["values"] = measure(replace(job, steps=about["steps"]), LONGER)
        about["before"] = {"steps": winner.steps, "value": winner.value}
        save(result)
    line = _line(winner, about["steps"], about["values"])
    about["taken"] = (line.value or 0.0) > (winner.value or 0.0)
    if not about["taken"]:
        shutil.rmtree(result.out / LONGER, ignore_errors=True)
        return winner
    result.entries[:] = _in_order([line if e is winner else e for e in result.entries])
    return line


def _line(winner: Entry, steps: int, values: dict[str, float]) -> Entry:
    """Of one seed, so that the interval over seeds of the shorter runs stands for its own."""
    both = {name: values[name] for name in (ALONE, JOINED) if name in values}
    features = max(both, key=lambda name: both[name])
    half = QUANTILE * values["error"]
    return replace(
        winner,
        value=both[features],
        half=half if math.isnan(winner.half) else max(half, winner.half),
        features=features,
        alone=both[ALONE],
        steps=steps,
        curve=(),
    )


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """With the trained ones of the last rung and yardsticks by value, the others behind them."""
    ranked = [e for e in entries if e.state == "done" and e.value is not None]
    rest = [e for e in entries if e not in ranked]
    return [*sorted(ranked, key=lambda e: -(e.value or 0.0)), *rest]
