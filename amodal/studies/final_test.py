"""The winner of a comparison: trained once more, and measured once on the test part.

There stands beside it what each rival has: the best simple features, and the best of frozen
encoders. Differences are of the same records, so their intervals are paired.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from torch import nn

from amodal.evaluate import NotApplicable, evaluate
from amodal.evaluate.held_out import test_groups
from amodal.evaluate.intervals import QUANTILE
from amodal.evaluate.joined import side_by_side
from amodal.evaluate.row import Row
from amodal.methods.saved import SavedRun, load_run
from amodal.stats.paired_bootstrap import Averaged, Bootstrap, Outcome
from amodal.studies.candidate import Candidate
from amodal.studies.comparison import ALONE, JOINED, LONGER, Comparison, Entry
from amodal.studies.frozen_encoders import FrozenEncoders
from amodal.studies.frozen_heads import MAX_TREES
from amodal.studies.longer import job_of, train_longer
from amodal.studies.planning import Measures, yardsticks_of
from amodal.studies.questions import error_of, row_of
from amodal.studies.study import Job, Study
from amodal.studies.task import Asked, Task
from amodal.studies.trainer import Setup
from amodal.train.pretrain import pretrain
from amodal.train.run_dir import mark_chosen, read_trained

RUN = "run"
REPORT = "report.json"
WEIGHTS = "model.safetensors"
"""Of a run that is finished."""
TREES = "boosting"
CLOSED_FORM = "closed form"
"""How the names of candidates begin that learn nothing by steps."""


@dataclass(frozen=True)
class Trained:
    """The run of a winner, as `evaluate` takes it: its training records are known.

    Args:
        encoder: In evaluation mode.
        config: Of config.json.
        trained: Hashes of the keys that it was trained on.
        head: None: it predicts no labels itself.
    """

    encoder: Any
    config: dict[str, Any]
    trained: np.ndarray | None
    head: None = None


@dataclass(frozen=True)
class Finalist:
    """A candidate with its weights.

    Args:
        candidate: What was trained.
        encoder: In evaluation mode.
        setup: The data.
    """

    candidate: Candidate
    encoder: nn.Module
    setup: Setup

    def rows(self, questions: Sequence[Asked], part: str, features: str) -> list[Row]:
        """A row for each question.

        Args:
            questions: What is asked.
            part: Of the split.
            features: `ALONE`, or `JOINED` where simple features stand beside its vectors.
        """
        data, pair, beside = self.setup.embedded(self.encoder, self.candidate, part, _nothing)
        if features == JOINED and beside is not None:
            pair = side_by_side(pair, beside)
        return [row_of(one, self.encoder, data, pair, 0) for one in questions]

    def values(self, questions: Sequence[Asked]) -> dict[str, float]:
        """What it has on the validation part: by features, and the standard `error` of the best."""
        data, pair, beside = self.setup.embedded(self.encoder, self.candidate, "valid", _nothing)
        pairs = {ALONE: pair}
        if beside is not None:
            try:
                pairs[JOINED] = side_by_side(pair, beside)
            except NotApplicable:  # a space that cannot be joined
                pass
        rows = {
            name: [row_of(one, self.encoder, data, one_pair, 0) for one in questions]
            for name, one_pair in pairs.items()
        }
        values = {name: mean(float(row["value"]) for row in each) for name, each in rows.items()}
        best = max(values, key=lambda name: values[name])
        return values | {"error": mean(error_of(row) for row in rows[best])}


def tested(
    folder: Path,
    about: Task,
    setup: Setup,
    study: Study,
    result: Comparison,
    save: Callable[[Comparison], None],
    progress: bool,
    more_steps: Callable[[str], int],
) -> Comparison:
    """Train the winner once more, into a run, and measure it on the test part.

    Where the rest of the budget pays for at least twice its steps, it takes these, and is kept so
    where that is better on the validation part.

    Args:
        folder: Of the comparison.
        about: What is asked.
        setup: The data.
        study: The trials.
        result: All of them have ended.
        save: Writes a comparison.
        progress: Show bars.
        more_steps: For how many steps a candidate of that name can be trained; 0 for no more.
    """
    winner = result.winner
    assert winner is not None
    run = folder / RUN
    if about.questions:
        winner = _longer(folder, about, setup, study, result, winner, save, progress, more_steps)
    saved = _trained(study, winner.name, setup, run, progress)
    mark_chosen(run)
    finalist = Finalist(study.candidate(winner.name), saved.encoder.eval(), setup)
    winner = with_trees(result, winner, finalist, about)
    choice = result.choice or winner
    report = evaluate(
        Trained(finalist.encoder, saved.config, read_trained(run)),
        setup.dataset,
        label=about.label,
        protocols=sorted({one.protocol for one in (*_asked(choice, about), *about.questions)})
        or None,
        progress=progress,
        **{name: value for one in about.questions for name, value in one.options.items()},
    )
    report.save(folder / REPORT, figures=False)
    if about.questions:
        measure = OnTest(about, setup, study, result.about["frozen"], {winner.name: finalist})
        against = rivals(result, choice)
        rows, *others = measure.rows([choice, *against])
        result.about["test"] = mean(float(row["value"]) for row in rows)
        named = [(rival.name, measured) for rival, measured in zip(against, others, strict=True)]
        result.about["against"] = differences(rows, named, setup)
    result.about["summary"] = report.about.get("summary", "")
    result.about[RUN] = RUN
    save(result)
    return result


def _longer(
    folder: Path,
    about: Task,
    setup: Setup,
    study: Study,
    result: Comparison,
    winner: Entry,
    save: Callable[[Comparison], None],
    progress: bool,
    more_steps: Callable[[str], int],
) -> Entry:
    """The winner after more steps, which is the run then, where these made it better."""

    def measure(job: Job, name: str) -> dict[str, float]:
        saved = _run_of(job, setup, folder / name, progress)
        return Finalist(job.candidate, saved.encoder.eval(), setup).values(about.questions)

    job = job_of(study, winner.name)
    found = train_longer(result, winner, job, lambda: more_steps(winner.name), measure, save)
    if found is not winner and not (folder / RUN / WEIGHTS).exists():
        shutil.rmtree(folder / RUN, ignore_errors=True)
        (folder / LONGER).rename(folder / RUN)
    return found


def _trained(study: Study, name: str, setup: Setup, run: Path, progress: bool) -> SavedRun:
    """The run of a candidate with the steps of the last rung; trained if it is not there."""
    return _run_of(job_of(study, name), setup, run, progress)


def _run_of(job: Job, setup: Setup, run: Path, progress: bool) -> SavedRun:
    """The run of a job; trained if it is not there."""
    if not (run / WEIGHTS).exists():
        pretrain(
            job.candidate.method,
            setup.dataset,
            run,
            **setup.run_settings(job),
            progress=progress,
            logger=None,
            resume=(run / "config.json").exists(),
        )
    return load_run(run)


def with_trees(result: Comparison, winner: Entry, finalist: Finalist, about: Task) -> Entry:
    """The winner by the estimator that suits it: a linear map, or boosted trees, where these are
    better on the validation part. Simple features have both, too.

    Args:
        result: Its line of the winner is replaced.
        winner: That line.
        finalist: Its weights.
        about: What is asked.

    Returns:
        The new line.
    """
    by_lines = about.kind == "label" and all(one.protocol == "linear" for one in about.questions)
    if not by_lines or winner.value is None:
        return winner
    if len(finalist.setup.dataset.split("train")) > MAX_TREES:  # they would take too long
        return winner
    features = ALONE if finalist.setup.simple is None else JOINED
    questions = [one.with_protocol(TREES) for one in about.questions]
    try:
        rows = finalist.rows(questions, "valid", features)
    except NotApplicable:  # a space that cannot be joined
        features = ALONE
        rows = finalist.rows(questions, "valid", features)
    value = mean(float(row["value"]) for row in rows)
    if not value > winner.value:
        return winner
    # of one seed, so that the interval over seeds of the linear map stands for that of trees
    half = max(QUANTILE * mean(error_of(row) for row in rows), winner.half)
    better = replace(winner, value=value, half=half, features=features, protocol=TREES)
    others = [entry for entry in result.entries if entry is not winner]
    worse = (i for i, e in enumerate(others) if e.value is None or e.value < value)
    place = next(worse, len(others))
    result.entries[:] = [*others[:place], better, *others[place:]]
    return better


def of_yardsticks(
    setup: Setup, about: Task, result: Comparison, save: Callable[[Comparison], None]
) -> Comparison:
    """A comparison whose budget pays for no training: the best yardstick, on the test part too."""
    choice = result.choice
    if choice is not None:
        names = (choice.name,)
        rows = on_test_part(names, about, setup, result.about["frozen"])[choice.name]
        result.about["test"] = mean(float(row["value"]) for row in rows)
    save(result)
    return result


def rivals(result: Comparison, choice: Entry) -> list[Entry]:
    """What the choice is compared with on the test part: of simple features, and of what frozen
    encoders have without steps of training, the best on the validation part."""
    best: dict[str, Entry] = {}
    for entry in result.entries:
        kind = "frozen" if entry.name.startswith(CLOSED_FORM) else entry.kind
        if entry is choice or entry.value is None or kind not in ("simple", "frozen"):
            continue
        if kind not in best or entry.value > (best[kind].value or 0.0):
            best[kind] = entry
    return [*best.values()]


def _asked(entry: Entry, about: Task) -> Sequence[Asked]:
    """The questions by the protocol of a line."""
    return [one.with_protocol(entry.protocol or one.protocol) for one in about.questions]


@dataclass(frozen=True)
class OnTest:
    """Measures lines of a comparison on the test part.

    Args:
        about: What is asked.
        setup: The data.
        study: The trials.
        frozen: Field -> spec of the frozen encoders.
        finalists: Name -> candidates whose weights are there.
    """

    about: Task
    setup: Setup
    study: Study
    frozen: Mapping[str, str]
    finalists: Mapping[str, Finalist]

    def rows(self, entries: Sequence[Entry]) -> list[Measures]:
        """Of each line a row for each question."""
        names = [entry.name for entry in entries if entry.kind != "candidate"]
        # together, since each call embeds the records anew
        found = on_test_part(names, self.about, self.setup, self.frozen) if names else {}
        return [found[e.name] if e.name in found else self._of_candidate(e) for e in entries]

    def _of_candidate(self, entry: Entry) -> Measures:
        finalist = self.finalists.get(entry.name) or self._trained(entry.name)
        return finalist.rows(_asked(entry, self.about), "test", entry.features)

    def _trained(self, name: str) -> Finalist:
        """Maps in closed form, which take a moment."""
        with tempfile.TemporaryDirectory() as folder:
            saved = _trained(self.study, name, self.setup, Path(folder) / RUN, False)
        return Finalist(self.study.candidate(name), saved.encoder.eval(), self.setup)


def on_test_part(
    names: Sequence[str], about: Task, setup: Setup, frozen: Mapping[str, str]
) -> dict[str, Measures]:
    """Name of a yardstick -> its rows on the test part."""
    encoders = FrozenEncoders.of(setup.dataset, frozen) if frozen else None
    measured, _ = yardsticks_of(setup, about, "test", _nothing, encoders, names)
    return measured


def differences(
    rows: Measures, others: Sequence[tuple[str, Measures]], setup: Setup
) -> list[dict[str, Any]]:
    """The value of each rival, and by how much the choice is above it.

    Args:
        rows: Of the choice, for each question.
        others: Name of a rival -> its rows.
        setup: The data.

    Returns:
        name, value, difference, and the difference's paired 95 % `interval` over records; None
        where the outcomes of single records are not known.
    """
    test = setup.dataset.split("test")
    bootstrap = Bootstrap(len(test), group=test_groups(setup.dataset, test))
    value, outcome = _mean(rows)
    found = []
    for name, measured in others:
        other, theirs = _mean(measured)
        interval = None
        if outcome is not None and theirs is not None:
            interval = bootstrap.difference(outcome, theirs)
        written = None if interval is None else [round(end, 6) for end in interval]
        line = {"name": name, "value": other, "difference": value - other, "interval": written}
        found.append(line)
    return found


def _mean(rows: Measures) -> tuple[float, Outcome | None]:
    """The mean over questions, and its outcomes of single records."""
    value = mean(float(row["value"]) for row in rows)
    parts = [row["outcome"] for row in rows if "outcome" in row]
    if len(parts) < len(rows):
        return value, None
    if len(parts) == 1:
        return value, parts[0]
    # questions of pairs of fields are of the records that have both
    return value, Averaged(np.unique(np.concatenate([part.who for part in parts])), parts)


def _nothing() -> None:
    pass
