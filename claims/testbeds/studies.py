"""Studies on testbeds: their data, their scores, and their results as files that can be committed.

A study works in a journal, which any number of processes on a machine share. Its results are also
in compact JSON, from which it goes on elsewhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import testbeds
from amodal.core import AmodalError, unknown
from amodal.modalities import name_of
from amodal.studies import (
    Candidate,
    Cell,
    Check,
    Job,
    Limits,
    Measured,
    Outcome,
    Outcomes,
    Setup,
    Study,
    Trainer,
    run,
)
from amodal.studies.questions import SimpleFeatures
from amodal.train.collapse_monitor import TrainingStopped
from testbeds import yardsticks
from testbeds.grid import ALIGNING, AUGMENTATION, ETA, LEAST_ROOM, RUNGS
from testbeds.testbed import Task, Testbed

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]


class Setups(Mapping[str, Setup]):
    """Testbeds as setups of a trainer, opened when one is needed.

    Args:
        names: Of testbeds.
        beside: Whether candidates are measured with simple features beside them, too.
        small_recipes: Whether candidates start from what `pretrain` would choose for the data.
    """

    def __init__(
        self, names: Sequence[str], *, beside: bool = False, small_recipes: bool = False
    ) -> None:
        self.names, self.beside, self.small_recipes = tuple(names), beside, small_recipes
        self.opened: dict[str, Setup] = {}

    def __getitem__(self, name: str) -> Setup:
        if name not in self.opened:
            bed = testbeds.testbed(name)
            self.opened[name] = Setup(
                bed.open(),
                bed.tasks,
                size=bed.size,
                batch_size=bed.batch_size,
                backbones=bed.backbones,
                equal_records=True,
                simple=SimpleFeatures() if self.beside else None,
                small_recipes=self.small_recipes,
            )
        return self.opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Yardsticks:
    """What chance, simple features and peers get on a part of a testbed.

    Args:
        bed: Its name.
        part: "valid" or "test".
    """

    bed: str
    part: str = "valid"

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """All that were measured.

        Raises:
            AmodalError: None were.
        """
        cells = [c for c in yardsticks.read(self.bed, yardsticks.RESULTS) if c["part"] == self.part]
        if not cells:
            raise AmodalError(
                f"{self.bed} has no yardsticks yet: python -m testbeds yardsticks {self.bed}"
            )
        return cells

    def of(self, task: str, method: str) -> float | None:
        """The value of "chance" or "simple features", None where there can be none.

        Raises:
            AmodalError: It is not measured yet.
        """
        for cell in self.cells:
            if (cell["task"], cell["method"]) == (task, method):
                return float(cell["value"]) if "value" in cell else None
        raise AmodalError(f"{task!r} has no {method} yet: python -m testbeds yardsticks {self.bed}")

    def best_peer(self, task: str) -> tuple[str, float] | None:
        """The name and value of the best peer."""
        yardstick = ("chance", "simple features")
        peers = [
            c
            for c in self.cells
            if c["task"] == task and c["method"] not in yardstick and "value" in c
        ]
        best = max(peers, key=lambda c: c["value"], default=None)
        return (f"{best['method']} {best['variant']}", float(best["value"])) if best else None


def counted(bed: Testbed, method: str) -> list[Task]:
    """The tasks of a testbed that count for a method."""
    return [t for t in bed.tasks if t.protocol != "retrieval" or method in ALIGNING]


def room_won(bed: Testbed, method: str, values: Mapping[str, float]) -> float:
    """The share of what simple features leave to be won; see `testbeds.grid`."""
    shares, yardstick = [], Yardsticks(bed.name)
    for task in counted(bed, method):
        simple = yardstick.of(task.name, "simple features")
        if simple is None:  # a task that has none is measured from chance
            simple = yardstick.of(task.name, "chance") or 0.0
        shares.append((values[task.name] - simple) / max(1 - simple, LEAST_ROOM))
    return sum(shares) / len(shares)


@dataclass(frozen=True)
class OnTestbeds:
    """The objective of a study over testbeds. A run that collapses has learnt nothing, and has the
    score of chance: a recipe is not out for one testbed on which it fails.

    Args:
        trainer: Trains, and measures all tasks.
    """

    trainer: Trainer

    def __call__(self, job: Job, check: Check) -> Measured:
        bed, method = testbeds.testbed(job.data), job.candidate.method
        try:
            measured = self.trainer(job, check)
        except TrainingStopped as stopped:
            yardstick = Yardsticks(bed.name)
            chance = {t.name: yardstick.of(t.name, "chance") or 0.0 for t in bed.tasks}
            tasks = {name: {"value": value} for name, value in chance.items()}
            details = {"stopped": str(stopped), "tasks": tasks}
            return Measured(room_won(bed, method, chance), details)
        values = {name: task["value"] for name, task in measured.details["tasks"].items()}
        return Measured(room_won(bed, method, values), measured.details)


def unfit(method: str, setup: Setup) -> str:
    """Why a method does not fit a testbed, "" if it does: found by one step on it."""

    def check() -> None:
        pass

    try:
        Trainer({"": setup})(Job(Candidate(method), "", 0, 0, 1), check)
    except TrainingStopped:
        return ""
    except AmodalError as error:
        return str(error)
    return ""


def kind(bed: Testbed, setup: Setup) -> str:
    """The kind of a testbed's fields, "mixed" where they are of more than one."""
    kinds = {name_of(setup.dataset.fields[name]) for name in bed.fields}
    return kinds.pop() if len(kinds) == 1 else "mixed"


@dataclass
class Stored:
    """The results of a study as a file.

    Args:
        path: NAME.json.
        study: Whose results they are.
        about: More to write beside them.
    """

    path: Path
    study: Study
    about: dict[str, Any] = field(default_factory=dict)

    def read(self) -> Outcomes:
        """The outcomes so far.

        Raises:
            AmodalError: The file is of another study.
        """
        if not self.path.exists():
            return {}
        stored = json.loads(self.path.read_text(encoding="utf-8"))
        differ = [n for n, v in self.study.written().items() if stored["study"].get(n) != v]
        if differ:
            raise AmodalError(
                f"{self.path} has the results of another study: its {', '.join(differ)} differ. "
                "Move it away, or take another --out."
            )
        return {
            Cell(*trial["cell"]): Outcome(trial["score"], trial["failed"], trial["details"])
            for trial in stored["trials"]
        }

    def write(self, outcomes: Outcomes) -> None:
        """Write all outcomes, a line each."""
        trials = [
            json.dumps(
                {"cell": [*cell], "score": o.score, "failed": o.failed, "details": o.details}
            )
            for cell, o in sorted(outcomes.items())
        ]
        head = json.dumps({"study": self.study.written(), **self.about})
        text = head[:-1] + ', "trials": [\n' + ",\n".join(trials) + "\n]}\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)


def work(stored: Stored, objective: Any, deadline: float, limits: Limits) -> Outcomes:
    """Work on a study until it is finished, or the time is up."""
    journal = stored.path.parent / "journals" / f"{stored.path.stem}.journal"
    outcomes = run(
        stored.study,
        objective,
        journal,
        budget=max(deadline - time.monotonic(), 0.0),
        limits=limits,
        before=stored.read(),
        report=stored.write,
    )
    stored.write(outcomes)
    return outcomes


@dataclass(frozen=True)
class Options:
    """Of a command that trains.

    Args:
        methods: To compare.
        beds: Testbeds whose data is here.
        out: Folder of the results.
        steps: Of training, None for those of each testbed.
        deadline: By the monotonic clock.
        limits: Of a trial.
    """

    methods: tuple[str, ...]
    beds: tuple[str, ...]
    out: Path
    steps: int | None
    deadline: float
    limits: Limits

    def first_steps(self, steps: int) -> int:
        """Steps of rung 0 where the last rung has `steps`."""
        return max(1, round((self.steps or steps) / float(ETA ** (RUNGS - 1))))


def add_options(parser: argparse.ArgumentParser, out: Path) -> None:
    """The options of all commands that train."""
    parser.add_argument("--budget", type=float, default=60.0, metavar="MINUTES")
    parser.add_argument(
        "--only", default="", metavar="NAME,..", help="methods and testbeds; by default all"
    )
    parser.add_argument("--out", type=Path, default=out, help="folder for NAME.json")
    parser.add_argument(
        "--steps", type=int, help="of training on every testbed, to try a command out"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch; one core by default")
    parser.add_argument("--trial", type=float, metavar="MINUTES", help="limit of one training")


def read_options(
    asked: argparse.Namespace, usual: Sequence[str], methods: Sequence[str] = tuple(AUGMENTATION)
) -> Options:
    """The options of a command that trains.

    Args:
        asked: What the command line says.
        usual: Testbeds, where none is named.
        methods: That can be named, and all where none is.

    Raises:
        AmodalError: For a name that is neither a method nor a testbed.
    """
    torch.set_num_threads(asked.threads)
    names = [name for name in asked.only.split(",") if name]
    for name in names:
        if name not in methods and name not in testbeds.names():
            raise unknown("method or testbed", name, [*methods, *testbeds.names()])
    beds = [n for n in names if n in testbeds.names()] or list(usual)
    here = tuple(name for name in beds if testbeds.testbed(name).is_here)
    if not here:
        raise AmodalError(f"the data of {', '.join(beds)} is not here: amodal data {beds[0]}")
    return Options(
        tuple(n for n in names if n in methods) or tuple(methods),
        here,
        asked.out,
        asked.steps,
        time.monotonic() + 60 * asked.budget,
        Limits(seconds=60 * asked.trial if asked.trial else None),
    )


def commit() -> str:
    """The commit of the repository, "unknown" outside of one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
