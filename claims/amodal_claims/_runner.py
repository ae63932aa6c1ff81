"""Run a claim: pilot, plan, seeds. On the engine of `amodal compare`, so that any number of
processes share the work, a killed one loses one training, and a second call goes on."""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from amodal.core import AmodalError
from amodal.studies.candidate import Candidate
from amodal.studies.limits import Check
from amodal.studies.outcome import Measured
from amodal.studies.storage import Trials
from amodal.studies.study import Job, Study, jobs
from amodal.studies.worker import run as run_study
from amodal_claims import _power
from amodal_claims._power import MOST, PILOT_SEEDS, Measurements, Pilot, Plan, detectable, seeds_for

if TYPE_CHECKING:
    from amodal.data import Dataset

FLOORS, CONTROL, MEASURE = "floors", "control", "measure"
"""The functions of a page: what has to be cleared, the control arm, and all arms."""


class Unfinished(AmodalError):
    """The time is up. What was measured is stored; the same command goes on."""


@dataclass(frozen=True)
class Work:
    """Where and how long a claim is worked on.

    Args:
        page: Its key.
        data: The name of a set, or a folder.
        journal: The file that all processes share.
        workers: Processes.
        deadline: Seconds since the epoch, None for as long as it takes.
    """

    page: str
    data: str
    journal: Path
    workers: int = 1
    deadline: float | None = None

    def measured(self, function: str, seeds: Sequence[int], steps: int | None) -> Measurements:
        """What a function of the page returns for each seed, in their order.

        Args:
            function: Of the page.
            seeds: Of everything random.
            steps: Of training, None for a page that fixes them itself.

        Raises:
            Unfinished: The time is up.
            AmodalError: A seed failed.
        """
        study = self.study(function, seeds, steps)
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        left = jobs(study, Trials(study, self.journal).snapshot().outcomes)
        spawn = multiprocessing.get_context("spawn")
        others = [
            spawn.Process(target=_help, args=(self, function, tuple(seeds), steps), daemon=True)
            for _ in range(min(self.workers, len(left)) - 1)
        ]
        for process in others:
            process.start()
        with _threads(1):
            outcomes = run_study(study, self.objective(function), self.journal, budget=self.budget)
        for process in others:
            process.join()
        if jobs(study, outcomes):
            raise Unfinished(
                f"{self.page}: {len(outcomes)} of {len(seeds)} seeds are measured ({function}); "
                "the same command goes on"
            )
        ends = {cell.seed: outcome for cell, outcome in outcomes.items()}
        for seed, end in ends.items():
            if end.failed:
                raise AmodalError(f"{self.page}, seed {seed}: {end.failed}")
        return [ends[seed].details["measured"] for seed in seeds]

    @property
    def budget(self) -> float | None:
        """Seconds that are left."""
        return None if self.deadline is None else max(self.deadline - time.time(), 0.0)

    def study(self, function: str, seeds: Sequence[int], steps: int | None) -> Study:
        """One candidate, the page; a page that is edited starts anew."""
        length = f" after {steps} steps" if steps else ""
        name = f"{self.page}: {function}{length}, seeds {seeds[0]} to {seeds[-1]}, {self.data}, {digest(self.page)}"
        return Study(
            (Candidate(self.page, name=function),), tuple(seeds), steps or 1, rungs=1, name=name
        )

    def objective(self, function: str) -> Any:
        """Calls the function of the page."""
        page, data = _page(self.page), self.data
        trains_for = function != FLOORS and hasattr(page, "STEPS")

        def measure(job: Job, check: Check) -> Measured:
            arguments = (job.steps,) if trains_for else ()
            try:
                measured = getattr(page, function)(job.seed, opened(data), *arguments)
            except Exception as error:
                if not isinstance(error, AmodalError):
                    traceback.print_exc(file=sys.stderr)
                raise
            check()
            return Measured(0.0, {"measured": {k: float(v) for k, v in measured.items()}})

        return measure


@lru_cache(maxsize=1)
def opened(data: str) -> Dataset:
    """The records, once for all seeds of a process: to look at a table takes seconds."""
    from amodal.data import open as open_data

    return open_data(data)


def _page(key: str) -> ModuleType:
    from amodal_claims import page

    return page(key)


def _help(work: Work, function: str, seeds: Sequence[int], steps: int | None) -> None:
    """One more process that works on a study."""
    study = work.study(function, seeds, steps)
    with _threads(1):
        run_study(study, work.objective(function), work.journal, budget=work.budget, progress=False)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Two seeds side by side with a thread each are faster than one with two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MEASURES_NOTHING = ("__init__", "_power", "_runner", "_verdict")
"""Files that pages share and that do not change what they measure."""


def digest(key: str) -> str:
    """Of the text of a page and of what pages share, such as `_arms`."""
    texts = [inspect.getsource(_page(key)).encode()]
    for file in sorted(Path(__file__).parent.glob("_*.py")):
        if file.stem not in MEASURES_NOTHING:
            texts.append(file.read_bytes())
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def beside(work: Work, function: str, seeds: Sequence[int], steps: int) -> Measurements:
    """What a function of a page measures, and the floors, which no training changes: they are
    measured once for each seed.

    Raises:
        Unfinished: The time is up.
    """
    arms = work.measured(function, seeds, steps)
    floors = work.measured(FLOORS, seeds, None)
    return [{**floor, **arm} for floor, arm in zip(floors, arms)]


def planned(work: Work, page: ModuleType) -> Plan:
    """The pilot of a page, and what follows from it.

    Raises:
        Unfinished: The time is up.
    """
    pilots: list[Pilot] = []
    control = control_of(page)
    for steps in page.STEPS:
        pilots.append(Pilot(steps, beside(work, CONTROL, PILOT_SEEDS, steps)))
        if not pilots[-1].below(control, page.FLOORS):
            break
    return _power.plan(page.PRIMARY.interest, control, page.FLOORS, pilots)


def control_of(page: ModuleType) -> str:
    """The arm that has to clear the floors."""
    return str(getattr(page, "CONTROL", page.PRIMARY.against))


def of_all_seeds(work: Work, page: ModuleType, plan: Plan) -> Measurements:
    """What the seeds of the plan measure, and those that are added where the differences deviate
    more than the pilot had it. Only the deviation decides that, not the effect.

    Raises:
        Unfinished: The time is up.
    """
    measured = beside(work, MEASURE, range(plan.seeds), plan.steps)
    deviation = _power.deviation_of(page.PRIMARY.differences(measured))
    if detectable(deviation, plan.seeds) <= plan.interest / 2:
        return measured
    if detectable(deviation, MOST) > plan.interest:
        return measured  # no number of seeds that is paid for would find the effect of interest
    more = seeds_for(deviation, plan.interest)
    if more <= plan.seeds:
        return measured
    print(f"the differences deviate by {deviation:.3f}: {more} seeds", flush=True)
    return [*measured, *beside(work, MEASURE, range(plan.seeds, more), plan.steps)]
