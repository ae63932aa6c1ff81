"""Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) with paired seeds.

Everything here is a pure function of the outcomes so far, so any process can say what is next, and
what is chosen does not depend on how many processes there are or which of them was quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, NamedTuple

from amodal.core import AmodalError
from amodal.studies.candidate import Candidate
from amodal.studies.outcome import Outcomes


class Cell(NamedTuple):
    """The place of a trial.

    Args:
        candidate: Its name.
        data: The name of the dataset, "" in a study of one.
        seed: Of everything random, the same for every candidate.
        rung: From 0.
    """

    candidate: str
    data: str
    seed: int
    rung: int


@dataclass(frozen=True)
class Job:
    """What a trial has to do.

    Args:
        candidate: What is trained.
        data: The name of the dataset, "" in a study of one.
        seed: Of everything random. Two candidates with one seed see the same batches.
        rung: From 0.
        steps: Of training.
    """

    candidate: Candidate
    data: str
    seed: int
    rung: int
    steps: int


@dataclass(frozen=True)
class Study:
    """Candidates x paired seeds x rungs.

    Args:
        candidates: With different names.
        seeds: The same for each candidate, dataset and rung.
        steps: Of training on rung 0; or dataset -> steps, for a study of more than one dataset.
        rungs: How many there are; rung k has `steps * eta**k` steps.
        eta: Factor of the steps from rung to rung.
        name: Of the study; a storage holds any number of them.

    Raises:
        AmodalError: For a study that cannot be run.
    """

    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | Mapping[str, int] = 100
    rungs: int = 3
    eta: float = 2.0
    name: str = "compare"

    def __post_init__(self) -> None:
        names = [c.name for c in self.candidates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or not self.seeds:
            raise AmodalError("a study needs at least one candidate and one seed")
        if twice:
            raise AmodalError(f"two candidates are called {twice[0]!r}; give one another name")
        if len(set(self.seeds)) < len(self.seeds):
            raise AmodalError(f"the seeds {self.seeds} must differ from each other")
        if self.rungs < 1 or self.eta <= 1:
            raise AmodalError(
                f"a study has at least one rung and an eta above 1, not {self.rungs} rungs and "
                f"eta {self.eta:g}"
            )
        for data, steps in self.first_steps.items():
            if steps < 1:
                raise AmodalError(f"{data or 'training'} needs at least 1 step, not {steps}")

    @property
    def first_steps(self) -> Mapping[str, int]:
        """Dataset -> steps of rung 0."""
        return self.steps if isinstance(self.steps, Mapping) else {"": self.steps}

    def candidate(self, name: str) -> Candidate:
        """One of the candidates."""
        return next(c for c in self.candidates if c.name == name)

    def steps_of(self, cell: Cell) -> int:
        """Steps of a trial."""
        return round(self.first_steps[cell.data] * self.eta**cell.rung)

    def job(self, cell: Cell) -> Job:
        """What the trial of a cell has to do."""
        candidate = self.candidate(cell.candidate)
        return Job(candidate, cell.data, cell.seed, cell.rung, self.steps_of(cell))

    def cells(self, names: Sequence[str], rung: int) -> list[Cell]:
        """The cells of some candidates on a rung, one seed of all of them after the other.

        A study that is ended early has compared all candidates on few seeds, not few on all seeds.
        """
        return [
            Cell(name, data, seed, rung)
            for seed in self.seeds
            for data in self.first_steps
            for name in names
        ]

    def written(self) -> dict[str, Any]:
        """What decides the study, in JSON types."""
        return {
            "candidates": [c.written() for c in self.candidates],
            "seeds": [*self.seeds],
            "steps": dict(self.first_steps),
            "rungs": self.rungs,
            "eta": self.eta,
        }


@dataclass(frozen=True)
class Standing:
    """How far a candidate has come.

    Args:
        candidate: Its name.
        score: The mean on its last complete rung, None before the first one or if it failed.
        rung: The last one that it has been on.
        state: running, done, "stopped at N" steps, or "failed: …".
    """

    candidate: str
    score: float | None
    rung: int
    state: str


def entrants(study: Study, rung: int, outcomes: Outcomes) -> list[str] | None:
    """The names of the candidates of a rung, the best one first.

    Returns:
        None while the rung before is not complete.
    """
    names = sorted(c.name for c in study.candidates)
    for before in range(rung):
        if any(cell not in outcomes for cell in study.cells(names, before)):
            return None
        better = ranked(study, names, before, outcomes)
        names = better[: (len(names) + 1) // 2]
    return names


def ranked(study: Study, names: Sequence[str], rung: int, outcomes: Outcomes) -> list[str]:
    """Names by their mean score on a complete rung, the best first, without those that failed."""
    scores = {name: score(study, name, rung, outcomes) for name in names}
    scored = {name: value for name, value in scores.items() if value is not None}
    return sorted(scored, key=lambda name: (-scored[name], name))


def score(study: Study, name: str, rung: int, outcomes: Outcomes) -> float | None:
    """The mean score of a candidate on a rung, None if a trial failed or has not ended."""
    results = [outcomes.get(cell) for cell in study.cells([name], rung)]
    values = [r.score for r in results if r is not None and r.score is not None]
    return mean(values) if len(values) == len(results) else None


def jobs(study: Study, outcomes: Outcomes) -> list[Cell]:
    """The cells that can be worked on now: those without an outcome of the highest open rung."""
    for rung in range(study.rungs):
        names = entrants(study, rung, outcomes)
        assert names is not None, "all rungs below are complete"
        missing = [cell for cell in study.cells(names, rung) if cell not in outcomes]
        if missing:
            return missing
    return []


def steps_left(study: Study, outcomes: Outcomes) -> int:
    """Steps of all trials that are still to come, if no candidate fails."""
    total, count = 0, len(study.candidates)
    for rung in range(study.rungs):
        names = entrants(study, rung, outcomes)
        if names is None:  # not chosen yet, but their number is known
            steps = [study.steps_of(cell) for cell in study.cells([""], rung)]
            total += count * sum(steps)
        else:
            count = len(names)
            cells = study.cells(names, rung)
            total += sum(study.steps_of(cell) for cell in cells if cell not in outcomes)
        count = (count + 1) // 2
    return total


def winner(study: Study, outcomes: Outcomes) -> str | None:
    """The best candidate of a finished study, None if it is not finished or all failed."""
    if jobs(study, outcomes):
        return None
    names = entrants(study, study.rungs - 1, outcomes) or []
    return next(iter(ranked(study, names, study.rungs - 1, outcomes)), None)


def standings(study: Study, outcomes: Outcomes) -> list[Standing]:
    """How far all candidates have come: the last rung and the best score first."""
    found = [_standing(study, c.name, outcomes) for c in study.candidates]
    return sorted(
        found,
        key=lambda s: (
            s.state.startswith("failed"),
            -s.rung,
            -(float("-inf") if s.score is None else s.score),
            s.candidate,
        ),
    )


def _standing(study: Study, name: str, outcomes: Outcomes) -> Standing:
    last = 0
    for rung in range(study.rungs):
        names = entrants(study, rung, outcomes)
        if names is None or name not in names:
            break
        last = rung
    cells = study.cells([name], last)
    value = score(study, name, last, outcomes)
    reasons = [outcomes[cell].failed for cell in cells if cell in outcomes]
    failed = next((reason for reason in reasons if reason), "")
    if failed:
        return Standing(name, None, last, f"failed: {failed}")
    after = entrants(study, last + 1, outcomes)
    if any(cell not in outcomes for cell in cells) or (after is None and last + 1 < study.rungs):
        if value is None and last:
            value = score(study, name, last - 1, outcomes)
        return Standing(name, value, last, "running")
    if last + 1 == study.rungs:
        return Standing(name, value, last, "done")
    steps = sorted({study.steps_of(cell) for cell in cells})
    return Standing(name, value, last, f"stopped at {' to '.join(map(str, steps))}")
