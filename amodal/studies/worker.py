"""Work on a study until it is finished, or the time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from amodal.core import AmodalError
from amodal.core.process_memory import free_cycles
from amodal.progress import Bar
from amodal.studies.limits import Check, Limits, Pulse
from amodal.studies.outcome import Measured, Outcome, Outcomes
from amodal.studies.storage import Snapshot, Ticket, Trials, Watch
from amodal.studies.study import Cell, Job, Study, jobs, steps_left
from amodal.train.signals import interruptions

Objective = Callable[[Job, Check], Measured]
"""Trains and measures. It calls the check often, which raises where the trial has to end."""


def run(
    study: Study,
    objective: Objective,
    storage: str | Path,
    *,
    budget: float | None = None,
    limits: Limits | None = None,
    patience: float = 60.0,
    every: float = 5.0,
    poll: float = 1.0,
    progress: bool = True,
    before: Outcomes | None = None,
    report: Callable[[Outcomes], None] | None = None,
) -> Outcomes:
    """Work on a study, beside any other processes that do. Call it once more to continue.

    Args:
        study: What is compared.
        objective: Trains and measures; an `AmodalError` that it raises is the outcome of a trial.
        storage: The path of a journal file, or the URL of a database.
        budget: Seconds. After them no trial is begun; one that is running is finished. No trial is
            begun either that would end after them, by its candidate's steps per second so far,
            unless it is the first one: so each call brings the study on.
        limits: Of one trial.
        patience: Seconds without a sign of life after which another process's trial is lost.
        every: Seconds between this process's signs of life; well below `patience`.
        poll: Seconds between looks at the storage while others work on all that can be done.
        progress: Show a bar, in steps of training.
        before: Outcomes of this study that were found with another storage.
        report: Called with all outcomes so far after each trial of this process.

    Returns:
        The outcomes so far; all of them if `jobs(study, outcomes)` is empty.

    Raises:
        AmodalError: For a storage that cannot be used.
        KeyboardInterrupt: If the user interrupts. The trial of the moment is put back.
    """
    trials = Trials(study, storage)
    trials.restore(before or {})
    return Worker(
        study,
        objective,
        trials,
        deadline=math.inf if budget is None else time.monotonic() + budget,
        limits=limits or Limits(),
        watch=Watch(patience),
        every=every,
        poll=poll,
        report=report or (lambda outcomes: None),
    ).run(progress)


class Worker:
    """One process's work on a study. See `run`."""

    def __init__(
        self,
        study: Study,
        objective: Objective,
        trials: Trials,
        *,
        deadline: float,
        limits: Limits,
        watch: Watch,
        every: float,
        poll: float,
        report: Callable[[Outcomes], None],
    ) -> None:
        self.study, self.objective, self.trials = study, objective, trials
        self.deadline, self.limits, self.watch = deadline, limits, watch
        self.every, self.poll, self.report = every, poll, report
        self.worked = 0

    def run(self, progress: bool) -> Outcomes:
        """Work until the study is finished, or the time is up."""
        now = self.trials.snapshot()
        total = steps_left(self.study, {})
        start = total - steps_left(self.study, now.outcomes)
        bar = Bar(self.study.name, total, start=start, shown=progress)
        with bar, interruptions() as interrupted:
            while open_cells := jobs(self.study, now.outcomes):
                if interrupted():
                    raise KeyboardInterrupt(f"interrupted; {self.trials.where} has all results")
                if time.monotonic() >= self.deadline:
                    break
                if self._recover(now) or self._enqueue(now, open_cells):
                    now = self.trials.snapshot()
                    continue
                waiting = [t for t in now.waiting if self._in_time(t.cell, now.outcomes)]
                if now.waiting and not waiting and not now.running:
                    break  # nothing that is left would end in time
                ticket = next((t for t in waiting if self.trials.claim(t)), None)
                if ticket is not None:
                    self._work(ticket, interrupted)
                elif not waiting:
                    time.sleep(min(self.poll, max(self.deadline - time.monotonic(), 0.0)))
                now = self.trials.snapshot()
                if ticket is not None:
                    self.report(now.outcomes)
                advance = total - steps_left(self.study, now.outcomes) - bar.done
                if advance or ticket is not None:
                    bar.step(_note(ticket), by=advance)
        return now.outcomes

    def _recover(self, now: Snapshot) -> bool:
        """End trials whose worker has died. Returns whether there were any."""
        dead = self.watch.dead(now.running)
        return any([self.trials.end(trial, lost=True) for trial in dead])

    def _enqueue(self, now: Snapshot, open_cells: list[Cell]) -> bool:
        """Add the trials that are missing. Returns whether there were any."""
        missing = [cell for cell in open_cells if cell not in now.lowest]
        self.trials.enqueue(missing)
        return bool(missing)

    def _in_time(self, cell: Cell, outcomes: Outcomes) -> bool:
        """Whether a trial would end before the deadline, by those of its candidate so far."""
        if not self.worked or math.isinf(self.deadline):
            return True
        paces = [
            outcome.seconds / self.study.steps_of(other)
            for other, outcome in outcomes.items()
            if (other.candidate, other.data) == (cell.candidate, cell.data)
            and outcome.score is not None
        ]
        expected = mean(paces) * self.study.steps_of(cell) if paces else 0.0
        return time.monotonic() + expected <= self.deadline

    def _work(self, ticket: Ticket, interrupted: Callable[[], bool]) -> None:
        """Work on a trial that this process has begun, and store what it found."""
        self.worked += 1
        pulse = Pulse(self.limits, lambda n: self.trials.count(ticket, n), self.every, interrupted)
        try:
            with pulse:
                outcome = self._outcome(ticket.cell, pulse)
            free_cycles()  # of a trial that failed too
            self.trials.finish(ticket, outcome)
        except BaseException:  # the user's interrupt is no result of the trial
            self.trials.end(ticket.trial, interrupted=True)
            raise

    def _outcome(self, cell: Cell, pulse: Pulse) -> Outcome:
        try:
            measured = self.objective(self.study.job(cell), pulse.check)
            pulse.check()
        except AmodalError as error:
            return Outcome(failed=str(error), details=_costs(pulse))
        except Exception as error:  # one broken method must not end the comparison of the others
            return Outcome(failed=f"{type(error).__name__}: {error}", details=_costs(pulse))
        details = {**measured.details, **_costs(pulse)}
        if not math.isfinite(measured.score):
            return Outcome(failed=f"its score is {measured.score}", details=details)
        return Outcome(float(measured.score), details=details)


def _costs(pulse: Pulse) -> dict[str, float]:
    return {
        "seconds": round(pulse.seconds, 3),
        "cpu_seconds": round(pulse.cpu_seconds, 3),
        "peak_bytes": pulse.peak_bytes,
    }


def _note(ticket: Ticket | None) -> str:
    if ticket is None:
        return "others"
    cell = ticket.cell
    data = f" on {cell.data}" if cell.data else ""
    return f"rung {cell.rung}: {cell.candidate}{data}, seed {cell.seed}"
