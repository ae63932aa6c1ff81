"""`amodal.compare`: which method is worth training on this data, next to the simple thing.

OUT/study.json         what is compared, and what simple things get
OUT/study.journal      the trials, which any number of processes share
OUT/comparison.json    the result so far
OUT/curves.png         validation while training
OUT/run/               the winner, trained with the last rung's steps, or with more of them
OUT/report.json        the winner on the test part, by `amodal evaluate`
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

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
from amodal.core.file_lock import locked
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.nn.transformer import size_of
from amodal.studies.comparison import RESULT, Comparison, entries_of
from amodal.studies.final_test import REPORT, RUN, of_yardsticks, tested
from amodal.studies.fitting import MAX_EPOCHS
from amodal.studies.frozen_encoders import AUTO, read_asked
from amodal.studies.longer import longer_steps
from amodal.studies.outcome import Outcomes
from amodal.studies.planning import Options, planned, share_of_winner, study_of
from amodal.studies.questions import SimpleFeatures
from amodal.studies.study import Study, jobs
from amodal.studies.task import Task, task_of
from amodal.studies.trainer import Setup, Trainer
from amodal.studies.worker import run as work

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

    The validation part alone is looked at. The winner is then trained once more, for as long as the
    rest of the budget allows where that makes it better, and measured once on the test part. Any
    number of processes may call it with the same `out` (on other machines with the same `storage`),
    at the same time or one after the other: they work on one study.

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
        steps: Of the last rung, and of the winner; by default what the budget allows.
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
    left = seconds * (1 - share_of_winner(steps)) - (time.monotonic() - start)
    study = study_of(folder)
    if study is None:
        return of_yardsticks(setup, about, result, partial(_save, folder))

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
        save = partial(_save, folder)

        def more_steps(name: str) -> int:
            if steps is not None:
                return 0
            records = len(dataset.split("train"))
            most = round(MAX_EPOCHS * records / min(size_of(size).batch, records))
            left = seconds - (time.monotonic() - start)
            return longer_steps(study, setup, outcomes, name, left=left, most=most)

        return tested(folder, about, setup, study, result, save, progress, more_steps)


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


def _save(folder: Path, result: Comparison) -> None:
    with _locked(folder / RESULT_LOCK):
        result.save(folder)


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
