"""`amodal.compare`: which method is worth training on this data, next to the simple thing.

OUT/study.json         what is compared, and what simple things get
OUT/study.journal      the trials, which any number of processes share
OUT/comparison.json    the result so far
OUT/curves.png         validation while training
OUT/run/               the winner, trained with the last rung's steps
OUT/report.json        the winner on the test part, by `amodal evaluate`
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from amodal import data as records
from amodal.core import AmodalError
from amodal.core.argument_types import (
    check_type,
    has_names,
    is_list_of_words,
    is_path,
    is_whole,
    is_word,
)
from amodal.core.embeddings import FUSED
from amodal.core.file_lock import locked
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.evaluate import evaluate
from amodal.inference.forward_passes import AnyEncoder
from amodal.methods.saved import load_run
from amodal.nn.transformer import size_of
from amodal.studies.comparison import JOINED, RESULT, Comparison, Entry, entries_of
from amodal.studies.frozen_encoders import AUTO, FrozenEncoders, read_asked
from amodal.studies.outcome import Outcomes
from amodal.studies.planning import LAST, Options, planned, study_of, yardsticks_of
from amodal.studies.questions import SimpleFeatures, answer_all, embedded
from amodal.studies.study import Study, jobs
from amodal.studies.task import Asked, Task, task_of
from amodal.studies.trainer import Setup, Trainer
from amodal.studies.worker import run as work
from amodal.train.pretrain import pretrain
from amodal.train.run_dir import mark_chosen, read_trained

RUN = "run"
REPORT = "report.json"
RESULT_LOCK, WINNER_LOCK = ".result.lock", ".winner.lock"
SEEDS = 2


@fast_products()
def compare(
    data: Any,
    label: str | None = None,
    *,
    out: str | Path,
    task: str = "auto",
    metric: str = "auto",
    budget: float | str = "30m",
    methods: str | Sequence[str] = "auto",
    encoders: Sequence[str] = (),
    fields: Sequence[str] = (),
    backbones: Mapping[str, str] | None = None,
    size: str = "nano",
    seeds: int = SEEDS,
    steps: int | None = None,
    storage: str = "",
    label_free: bool = False,
    frozen: str | Mapping[str, str] = AUTO,
    progress: bool = True,
) -> Comparison:
    """Compare methods on one's own data, by successive halving, next to simple features.

    The validation part alone is looked at. The winner is then trained once more, and measured once
    on the test part. Any number of processes may call it with the same `out` (on other machines
    with the same `storage`), at the same time or one after the other: they work on one study.

    Args:
        data: As `amodal.open` takes it.
        label: What is to be predicted from the fields; TIME,EVENT for a survival time.
        out: The folder of the comparison. One that is there is continued.
        task, metric: See `amodal.studies.task.task_of`.
        budget: Seconds, or a text such as "30m" or "2h".
        methods: Names, or auto: all that learn from such fields without a label.
        encoders: FIELD=SPEC for an encoder from scratch in the place of the own one (such as
            image=convnet), with which each method is compared too.
        fields: To learn from; all by default.
        backbones: Field -> pretrained backbone, which stays frozen.
        size: Of the encoder.
        seeds: Of each candidate; fewer where the budget does not pay for them.
        steps: Of the last rung; by default what the budget allows.
        storage: URL of a database; by default a file in `out`.
        label_free: Also measure what needs no labels (RankMe, alpha, LiDAR).
        frozen: Pretrained encoders that are measured as they are: field -> spec; or "auto" for
            those packaged ones whose weights are here already, as far as the budget allows; or
            "none". Where each field has one, maps between them are candidates for retrieval.
        progress: Show bars.

    Returns:
        What was measured so far; `finished` says whether all trials have ended.

    Raises:
        AmodalError: For data on which nothing can be compared, and for options that are not those
            of the comparison in `out`.
    """
    start, seconds = time.monotonic(), seconds_of(budget)
    check_type("out", out, is_path, "the folder of the comparison")
    check_type("label", label or "", is_word, "the name of one label")
    check_type("metric", metric, is_word, "auto, or a name such as accuracy")
    check_type("methods", methods, _are_names, "auto, or a list of names such as ['clip']")
    check_type("encoders", encoders, is_list_of_words, "a list such as ['image=convnet']")
    check_type("fields", fields or [], is_list_of_words, "a list of names, such as ['image']")
    check_type("backbones", backbones or {}, has_names, "a dict of field -> backbone")
    check_type("seeds", seeds, is_whole, "a whole number")
    check_type("steps", 1 if steps is None else steps, _is_positive, "a whole number above 0")
    check_type("storage", storage, is_word, "the URL of a database")
    check_type("frozen", frozen, lambda one: is_word(one) or has_names(one), "auto, none, or specs")
    if seeds < 1:
        raise AmodalError(f"seeds is {seeds}, and at least 1 is needed")
    folder = Path(out)
    read = read_asked(frozen) if isinstance(frozen, str) else dict(frozen)
    dataset = records.open(data)
    dataset = dataset.select(fields) if fields else dataset
    size_of(size)  # raises for one that is none
    about = task_of(dataset, label, task, metric)
    asked = Options(
        label,
        task,
        _names(methods),
        tuple(encoders),
        tuple(dataset.fields),
        dict(backbones or {}),
        size,
        seeds,
        steps,
        label_free or about.kind == "label-free",
        read,
        metric,
    )
    setup = setup_of(dataset, about, asked)
    result = planned(folder, dataset, about, asked, setup, seconds, progress)
    if is_tested(folder, result):
        return result
    left = seconds * (1 - LAST) - (time.monotonic() - start)
    study = study_of(folder)
    if study is None:
        return of_yardsticks(folder, setup, about, result)

    def report(so_far: Outcomes) -> None:
        _written(folder, result, study, so_far)

    outcomes = work(
        study,
        Trainer({"": setup}),
        storage or folder / "study.journal",
        budget=max(left, 1.0),
        progress=progress,
        report=report,
    )
    result = _written(folder, result, study, outcomes)
    if jobs(study, outcomes) or result.winner is None:
        return result
    with _locked(folder / WINNER_LOCK):  # the others of a study wait for the one that trains it
        now = Comparison.load(folder)
        if is_tested(folder, now):
            return now
        return tested(folder, dataset, about, setup, study, result, progress)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """See `locked`. Raises AmodalError where the folder cannot be written."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file))
        except OSError as error:
            raise AmodalError(
                f"{file.parent} cannot be written ({error.strerror or error}); make room or give "
                "the comparison another --out"
            ) from error
        yield


def is_tested(folder: Path, result: Comparison) -> bool:
    """Whether the winner was trained, and measured on the test part."""
    return RUN in result.about and (folder / REPORT).exists()


LONGEST = 8760 * 3600.0
"""Seconds of a budget, at most: a longer one is a slip of the pen."""


def seconds_of(budget: float | str) -> float:
    """Seconds of a budget.

    Args:
        budget: Seconds, or a number with s, m or h behind it.

    Raises:
        AmodalError: For another text, for no time, and for more than `LONGEST`.
    """
    text = str(budget).strip().lower()
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError as error:
        raise AmodalError(f"a budget is a time such as 90s, 30m or 2h, not {budget!r}") from error
    if not 0 < value <= LONGEST:
        raise AmodalError(
            f"a budget is more than no time and at most {LONGEST / 3600:,.0f}h, a year, not "
            f"{budget!r}"
        )
    return value


def _are_names(chosen: Any) -> bool:
    return is_word(chosen) or is_list_of_words(chosen)


def _is_positive(value: Any) -> bool:
    return is_whole(value) and value > 0


def _names(chosen: str | Sequence[str]) -> tuple[str, ...]:
    names = chosen.split(",") if isinstance(chosen, str) else [*chosen]
    names = [name.strip() for name in names if name.strip()]
    return () if names in ([], ["auto"]) else tuple(names)


def setup_of(dataset: Dataset, about: Task, asked: Options) -> Setup:
    """The data, and what is asked of a model of it."""
    return Setup(
        dataset,
        about.questions,
        size=asked.size,
        backbones=asked.backbones,
        simple=SimpleFeatures() if about.questions else None,
        small_recipes=True,
        label_free=asked.label_free,
    )


def _written(folder: Path, result: Comparison, study: Study, outcomes: Outcomes) -> Comparison:
    """The comparison with the outcomes so far, also in the folder."""
    from amodal.studies.curves import draw_curves

    yardsticks = [entry for entry in result.entries if entry.kind != "candidate"]
    about = result.about | {"steps": study.steps_of(study.cells([""], study.rungs - 1)[0])}
    now = Comparison(
        result.title, entries_of(study, outcomes, yardsticks), result.left_out, about, folder
    )
    with _locked(folder / RESULT_LOCK):
        if (folder / RESULT).exists() and is_tested(folder, stored := Comparison.load(folder)):
            return stored  # by a process that was faster
        now.save(folder)
        draw_curves(now, folder / "curves.png")
    return now


def tested(
    folder: Path,
    dataset: Dataset,
    about: Task,
    setup: Setup,
    study: Study,
    result: Comparison,
    progress: bool,
) -> Comparison:
    """Train the winner once more, into a run, and measure it on the test part."""
    winner = result.winner
    assert winner is not None
    candidate = study.candidate(winner.name)
    job = study.job(study.cells([winner.name], study.rungs - 1)[0])
    run = folder / RUN
    if not (run / "model.safetensors").exists():
        pretrain(
            candidate.method,
            setup.dataset,
            run,
            **setup.run_settings(job),
            progress=progress,
            logger=None,
            resume=(run / "config.json").exists(),
        )
    mark_chosen(run)
    saved = load_run(run)
    choice, questions = result.choice or winner, about.questions
    if choice.protocol and choice.kind != "frozen":
        questions = tuple(one.with_protocol(choice.protocol) for one in questions)
    report = evaluate(
        Trained(saved.encoder.eval(), saved.config, read_trained(run)),
        setup.dataset,
        label=about.label,
        protocols=sorted({one.protocol for one in (*questions, *about.questions)}) or None,
        **{name: value for one in questions for name, value in one.options.items()},
        progress=progress,
    )
    report.save(folder / REPORT, figures=False)
    if choice.kind == "frozen":  # the run does not have these encoders
        values = _of_yardstick(choice.name, setup, about, result)
    else:
        test = [_value(one, report.rows(), choice, [*dataset.fields]) for one in questions]
        values = [value for value in test if value is not None]
        if choice.features == JOINED and len(values) < len(test):  # not in reports of survival
            values = _joined(saved.encoder, setup, questions)
    if values and len(values) == len(questions):
        result.about["test"] = mean(values)
    result.about["summary"] = report.about.get("summary", "")
    result.about[RUN] = RUN
    with _locked(folder / RESULT_LOCK):
        result.save(folder)
    return result


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


def _joined(encoder: AnyEncoder, setup: Setup, questions: Sequence[Asked]) -> list[float]:
    """What a trained encoder has on the test part with simple features beside its vectors."""

    def check() -> None:
        pass

    data, pair = embedded(encoder, setup.dataset, "test", check)
    simple = setup.simple.beside(encoder.fields, data, "test", pair) if setup.simple else None
    measured = answer_all(questions, encoder, data, pair, 0, check, simple)
    return [one["joined"] for one in measured.values() if "joined" in one]


def of_yardsticks(folder: Path, setup: Setup, about: Task, result: Comparison) -> Comparison:
    """A comparison whose budget pays for no training: the best yardstick, on the test part too."""
    choice = result.choice
    if choice is not None:
        measured = _of_yardstick(choice.name, setup, about, result)
        result.about["test"] = mean(measured)
    with _locked(folder / RESULT_LOCK):
        result.save(folder)
    return result


def _of_yardstick(name: str, setup: Setup, about: Task, result: Comparison) -> list[float]:
    """What a yardstick has on the test part, of each question."""
    specs = result.about["frozen"]
    frozen = FrozenEncoders.of(setup.dataset, specs) if specs else None
    measured, _ = yardsticks_of(setup, about, "test", lambda: None, frozen)
    return [one["value"] for one in measured[name]]


def _value(
    question: Asked, rows: Sequence[Mapping[str, Any]], choice: Entry, fields: Sequence[str]
) -> float | None:
    """What was chosen, by the rows of a report on the test part."""
    wanted: dict[str, Any] = {"metric": question.row_metric, "protocol": question.protocol}
    if question.protocol == "retrieval":
        wanted |= {"source": question.fields[0], "target": question.fields[1]}
    else:
        wanted["source"] = fields[0] if len(fields) == 1 else FUSED
    row = next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)
    column = (
        "simple" if choice.kind == "simple" else "joined" if choice.features == JOINED else "value"
    )
    return None if row is None or column not in row else float(row[column])
