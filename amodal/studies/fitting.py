"""Which candidates fit the data, what a step of each costs, and what a budget pays for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from torch import Tensor

from amodal import methods
from amodal.core import AmodalError
from amodal.studies.candidate import Candidate
from amodal.studies.limits import Check
from amodal.studies.study import Job, Study
from amodal.studies.trainer import Setup, Stop, trained
from amodal.train.callbacks import Progress
from amodal.train.collapse_monitor import TrainingStopped

GENERAL = (
    "clip",
    "siglip",
    "simclr",
    "vicreg",
    "barlow_twins",
    "byol",
    "mae",
    "data2vec",
    "dino",
    "moco_v3",
    "simsiam",
    "nnclr",
    "swav",
    "scarf",
    "ts2vec",
    "decur",
    "slip",
)
"""Compared first where a budget does not pay for all methods: those that ask little of the data."""
PROBED = 3
"""Steps by which a pace is measured. The first one is warm-up."""
MIN_STEPS = 30
"""Of the first rung. With fewer, methods are ranked by how their first steps go."""
MAX_EPOCHS = 200
"""Of the last rung: small data is not trained for hours because the budget would allow it."""
RUNGS, ETA = 3, 2
SLOW = 8.0
"""A candidate whose step takes this many times the median's is left out."""


@dataclass(frozen=True)
class Fit:
    """A candidate that fits the data.

    Args:
        candidate: What is trained.
        step: Seconds of a step.
        start: Seconds before the first one.
    """

    candidate: Candidate
    step: float
    start: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """What a budget pays for.

    Args:
        study: The study.
        seconds: That it is expected to take.
        left_out: Candidate -> why it is not in it.
    """

    study: Study
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)


class TooShort(AmodalError):
    """A budget that pays for no study."""


def every_method() -> list[str]:
    """The methods that learn without a label, the general ones first."""
    names = [name for name in methods.names() if _learns_alone(name)]
    return sorted(names, key=lambda name: (_place(name), name))


def _learns_alone(name: str) -> bool:
    options = methods.options(name)
    needed = [n for n, option in options.items() if option.default is option.empty]
    return "label" not in options and not needed


def _place(name: str) -> int:
    return GENERAL.index(name) if name in GENERAL else len(GENERAL)


def fit_of(candidate: Candidate, setup: Setup, check: Check) -> Fit:
    """Train a candidate for some steps, and time these.

    Raises:
        AmodalError: It does not fit the data; the message says why.
    """
    ticks, job = [time.monotonic()], Job(candidate, "", 0, 0, PROBED)

    class Clock:
        def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
            ticks.append(time.monotonic())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said when it is trained
        try:
            trained(setup, job, [Stop(check), Clock()])
        except TrainingStopped:  # three steps may end anywhere
            pass
        except AmodalError:
            raise
        except Exception as error:  # a method that breaks on this data is left out, not the others
            raise AmodalError(f"{type(error).__name__}: {error}") from error
    steps = [b - a for a, b in zip(ticks[1:], ticks[2:])]
    if not steps and setup.steps(job) == 1:  # solved in one step, however many there might be
        steps = [0.0]
    steps = steps or [ticks[-1] - ticks[0]]
    return Fit(candidate, max(min(steps), 1e-4), max(ticks[min(1, len(ticks) - 1)] - ticks[0], 0.0))


def fits_of(
    candidates: Sequence[Candidate],
    setup: Setup,
    check: Check,
    seconds: float,
    step: Callable[[str], None],
) -> tuple[list[Fit], dict[str, str]]:
    """The candidates that fit, and why others do not.

    Args:
        candidates: In the order in which they are tried.
        setup: The data.
        check: Called between steps.
        seconds: After them no further candidate is tried.
        step: Called with the name of each.
    """
    found, reasons, start = list[Fit](), dict[str, str](), time.monotonic()
    for candidate in candidates:
        step(candidate.name)
        if time.monotonic() - start > seconds:
            reasons[candidate.name] = (
                "not tried: trying all methods would take too much of the time"
            )
            continue
        try:
            found.append(fit_of(candidate, setup, check))
        except AmodalError as error:
            reasons[candidate.name] = str(error)
    return found, reasons


def chosen(
    fits: Sequence[Fit],
    records: int,
    rows: int,
    seconds: float,
    *,
    seeds: int,
    measuring: float,
    steps: int | None = None,
) -> Chosen:
    """The study that fits a budget.

    First seeds are given up, then candidates, from the end of the list.

    Args:
        fits: The candidates, the most important first.
        records: Of the training part.
        rows: Of a batch.
        seconds: Of the budget.
        seeds: Wanted.
        measuring: Seconds that measuring a trial takes.
        steps: Of the last rung; None for what the budget allows.

    Raises:
        TooShort: The budget does not pay for two candidates.
    """
    left_out: dict[str, str] = {}
    middle = median(fit.step for fit in fits)
    remaining = list[Fit]()
    for fit in fits:
        if fit.step > SLOW * middle and len(fits) > 2:
            left_out[fit.candidate.name] = (
                f"a step takes {fit.step / middle:.0f} times that of the median"
            )
        else:
            remaining.append(fit)
    most = max(MIN_STEPS, round(MAX_EPOCHS * records / rows / ETA ** (RUNGS - 1)))
    wanted = None if steps is None else max(1, round(steps / ETA ** (RUNGS - 1)))
    for count in range(len(remaining), 0, -1):
        for n in range(seeds, 0, -1):
            some = remaining[:count]
            if wanted is not None:
                first = wanted
            else:
                fixed = cost(some, n, 0, measuring)
                first = int((seconds - fixed) / max(cost(some, n, 1, measuring) - fixed, 1e-9))
            expected = cost(some, n, min(first, most), measuring)
            if first >= (wanted or MIN_STEPS) and (expected <= seconds or wanted is not None):
                first = first if wanted is not None else min(first, most)
                for fit in remaining[count:]:
                    left_out[fit.candidate.name] = "the budget does not pay for more candidates"
                study = Study(
                    tuple(fit.candidate for fit in some), tuple(range(n)), first, RUNGS, ETA
                )
                return Chosen(study, expected, left_out)
    least = cost(remaining[:2], 1, MIN_STEPS, measuring)
    raise TooShort(
        f"{max(seconds, 0) / 60:.1f} minutes are left, and two candidates with {MIN_STEPS} steps "
        f"on the first rung would take {least / 60:.1f}; give a larger --budget, a smaller --size, "
        "or fewer records"
    )


def cost(fits: Sequence[Fit], seeds: int, steps: int, measuring: float) -> float:
    """Seconds of a study, if the candidates with mean pace go on.

    Args:
        fits: The candidates.
        seeds: Of each.
        steps: Of the first rung.
        measuring: Seconds that measuring a trial takes.
    """
    if not fits:
        return 0.0
    step = sum(fit.step for fit in fits) / len(fits)
    start = sum(fit.start for fit in fits) / len(fits)
    total, count = 0.0, len(fits)
    for rung in range(RUNGS):
        total += count * seeds * (start + measuring + step * steps * ETA**rung)
        count = (count + 1) // 2
    return total
