"""`amodal.compare`: which method is worth training on this data, next to the simple thing.

OUT/study.json         what is compared, and what simple things get
OUT/study.journal      the trials, which any number of processes share
OUT/comparison.json    the result so far
OUT/curves.png         validation while training
OUT/run/               the winner, trained with the last rung's steps
OUT/report.json        the winner on the test part, by `amodal evaluate`
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.evaluate import evaluate
from amodal.evaluate.joined import side_by_side
from amodal.methods.saved import load_run
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.progress import Bar
from amodal.studies.candidate import Candidate
from amodal.studies.comparison import JOINED, QUANTILE, RESULT, Comparison, Entry, entries_of
from amodal.studies.fitting import chosen, every_method, fits_of
from amodal.studies.outcome import Outcomes
from amodal.studies.questions import SimpleFeatures, answer, embedded
from amodal.studies.study import Job, Study, jobs
from amodal.studies.task import Asked, Task, task_of
from amodal.studies.trainer import Setup, Trainer, shortened
from amodal.studies.worker import run as work
from amodal.train.pretrain import pretrain
from amodal.train.run_dir import read_trained

PLAN = "study.json"
RUN = "run"
REPORT = "report.json"
TRIED = 0.25
"""Share of the budget for finding out which methods fit."""
LAST = 0.15
"""Share of the budget that is kept for training and testing the winner."""
SEEDS = 2
UNTRAINED, SIMPLE = "untrained encoder", "simple features"
BOOSTED = f"boosted trees on {SIMPLE}"


@dataclass(frozen=True)
class Options:
    """Of a comparison, see `compare`."""

    label: str | None
    task: str
    methods: tuple[str, ...]
    encoders: tuple[str, ...]
    fields: tuple[str, ...]
    backbones: Mapping[str, str]
    size: str
    seeds: int
    steps: int | None
    label_free: bool


@fast_products()
def compare(
    data: Any,
    label: str | None = None,
    *,
    out: str | Path,
    task: str = "auto",
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
        task: See `amodal.studies.task.task_of`.
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
        progress: Show bars.

    Returns:
        What was found so far; `finished` says whether all trials have ended.

    Raises:
        AmodalError: For data on which nothing can be compared, and for options that are not those
            of the comparison in `out`.
    """
    start, seconds = time.monotonic(), seconds_of(budget)
    if seeds < 1:
        raise AmodalError(f"seeds is {seeds}, and at least 1 is needed")
    folder = Path(out)
    dataset = records.open(data)
    dataset = dataset.select(fields) if fields else dataset
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
        label_free or task == "label-free",
    )
    size_of(size)
    about = task_of(dataset, label, task)
    asked = replace(asked, label_free=asked.label_free or about.kind == "label-free")
    setup = setup_of(dataset, about, asked)
    found = planned(folder, dataset, about, asked, setup, seconds, progress)
    if found.finished and (folder / REPORT).exists():
        return found
    left = seconds * (1 - LAST) - (time.monotonic() - start)
    study = study_of(folder)

    def report(so_far: Outcomes) -> None:
        _written(folder, found, study, so_far)

    outcomes = work(
        study,
        Trainer({"": setup}),
        storage or folder / "study.journal",
        budget=max(left, 1.0),
        progress=progress,
        report=report,
    )
    found = _written(folder, found, study, outcomes)
    if not jobs(study, outcomes) and found.winner is not None:
        found = tested(folder, dataset, about, setup, study, found, progress)
    return found


def seconds_of(budget: float | str) -> float:
    """Seconds of a budget.

    Args:
        budget: Seconds, or a number with s, m or h behind it.

    Raises:
        AmodalError: For another text, and for no time.
    """
    text = str(budget).strip().lower()
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError as error:
        raise AmodalError(f"a budget is a time such as 90s, 30m or 2h, not {budget!r}") from error
    if not 0 < value < float("inf"):
        raise AmodalError(f"a budget is more than no time, not {budget!r}")
    return value


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


def candidates_of(asked: Options, dataset: Dataset) -> list[Candidate]:
    """All candidates that may fit, the most important first.

    Raises:
        AmodalError: For an unknown method, or an encoder of a field that is not there.
    """
    names = asked.methods or tuple(every_method())
    for name in names:
        methods.function(name)  # raises for one that is none
    found = [Candidate(name) for name in names]
    for spec in asked.encoders:
        field, _, backbone = spec.partition("=")
        if field not in dataset.fields or not backbone:
            raise unknown(
                "field", field, dataset.fields, "An encoder is FIELD=SPEC, such as image=convnet."
            )
        found += [
            Candidate(
                name, backbones={**asked.backbones, field: backbone}, name=f"{name} {backbone}"
            )
            for name in names
        ]
    if asked.encoders and not asked.methods:  # the general ones with each encoder come first
        order = {c.name: place for place, c in enumerate(found)}
        found.sort(key=lambda c: (names.index(c.method), order[c.name]))
    return found


def planned(
    folder: Path,
    dataset: Dataset,
    about: Task,
    asked: Options,
    setup: Setup,
    seconds: float,
    progress: bool,
) -> Comparison:
    """The comparison in the folder, begun if there is none. The first process to have one wins.

    Raises:
        AmodalError: If that in the folder is of other data or options, or nothing fits.
    """
    path = folder / PLAN
    written = {
        "fingerprint": dataset.fingerprint,
        "options": json.loads(json.dumps(vars(asked), default=dict)),
    }
    if not path.exists():
        plan = written | _begin(dataset, about, asked, setup, seconds, progress)
        _write_first(path, plan)
    before = _read_plan(path)
    differ = [
        name for name, value in written["options"].items() if before["options"].get(name) != value
    ]
    if before["fingerprint"] != dataset.fingerprint:
        differ.insert(0, "data")
    if differ:
        raise AmodalError(
            f"{folder} has a comparison with another {', '.join(differ)}. Give the same to go on, "
            "or another --out to begin a new one"
        )
    if (folder / RESULT).exists():
        return Comparison.load(folder)
    return Comparison(
        about.title,
        [Entry(**one) for one in before["yardsticks"]],
        before["left_out"],
        before["about"],
        folder,
    )


def _begin(
    dataset: Dataset, about: Task, asked: Options, setup: Setup, seconds: float, progress: bool
) -> dict[str, Any]:
    """Measure yardsticks, try all candidates, and choose the study."""
    start = time.monotonic()

    def check() -> None:
        pass

    everything = candidates_of(asked, dataset)
    yardsticks, measuring = yardsticks_of(setup, about, check)
    with Bar("which methods fit", len(everything), shown=progress) as bar:
        fits, reasons = fits_of(
            everything, setup, check, seconds * TRIED, lambda name: bar.step(name)
        )
    if not fits:
        first = next(iter(reasons.items()), ("", "there is none"))
        raise AmodalError(f"no method fits {dataset.name}; {first[0]}: {first[1]}")
    rows, count = size_of(asked.size).batch, len(dataset.split("train"))
    choice = chosen(
        fits,
        count,
        min(rows, count),
        seconds * (1 - LAST) - (time.monotonic() - start),
        seeds=asked.seeds,
        measuring=measuring,
        steps=asked.steps,
    )
    parts = {part: len(dataset.split(part)) for part in ("train", "valid", "test")}
    return {
        "study": choice.study.written(),
        "yardsticks": [vars(entry) for entry in yardsticks],
        "left_out": reasons | dict(choice.left_out),
        "about": {
            "data": dataset.name,
            "task": about.kind,
            "label": about.label,
            "label_free": about.kind == "label-free",
            "parts": parts,
            "seeds": len(choice.study.seeds),
            "expected_seconds": round(choice.seconds, 1),
        },
    }


def _write_first(path: Path, plan: Mapping[str, Any]) -> None:
    """Write a plan, unless another process has written one by now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(plan, indent=1, default=dict) + "\n", encoding="utf-8")
        try:
            os.link(draft, path)  # unlike a rename it does not replace what is there
        except FileExistsError:
            pass
        draft.unlink()
    except OSError as error:
        raise AmodalError(f"could not write {path}: {error}") from error


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: plan[name] for name in (*PLANNED, "fingerprint", "options")}
    except (OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no plan of a comparison, or is damaged: {error}; take another --out"
        ) from error


PLANNED = ("study", "yardsticks", "left_out", "about")


def study_of(folder: Path) -> Study:
    """The study of a comparison."""
    written = _read_plan(folder / PLAN)["study"]
    return Study(
        tuple(Candidate(**one) for one in written["candidates"]),
        tuple(written["seeds"]),
        written["steps"],
        written["rungs"],
        written["eta"],
    )


def yardsticks_of(
    setup: Setup, about: Task, check: Callable[[], None]
) -> tuple[list[Entry], float]:
    """Chance, simple features and an untrained encoder, on the validation part.

    Returns:
        The entries, the best first, and the seconds that measuring one encoder takes.
    """
    torch.manual_seed(0)
    dataset = records.learn_tokens(setup.dataset, setup.dataset.split("train"))
    encoder = Encoder(dataset.fields, size=setup.size)
    if about.kind == "retrieval":
        encoder = encoder.align(encoder.width)
    encoder = encoder.eval()
    start = time.monotonic()
    data, pair = embedded(encoder, dataset, "valid", check)
    columns: dict[str, Any] = {UNTRAINED: pair}
    measured = {UNTRAINED: _answers(about.questions, encoder, data, pair)}
    seconds = time.monotonic() - start
    simple = setup.simple.beside(encoder, data, "valid", pair) if setup.simple else None
    if simple is not None:
        columns[SIMPLE] = simple
        measured[SIMPLE] = _answers(about.questions, encoder, data, simple)
        start = time.monotonic()
        _answers(about.questions, encoder, data, side_by_side(pair, simple))
        seconds += time.monotonic() - start
        if about.kind == "label":
            boosted = [one.with_protocol("boosting") for one in about.questions]
            measured[BOOSTED] = _answers(boosted, encoder, data, simple)
    if not about.questions:
        return [], seconds
    chance = mean(one["chance"] for one in measured[UNTRAINED])
    entries = [
        Entry(
            name,
            "untrained" if name == UNTRAINED else "simple",
            mean(one["value"] for one in answers),
            QUANTILE * mean(one["standard_error"] for one in answers),
            protocol="boosting" if name == BOOSTED else "",
        )
        for name, answers in measured.items()
    ]
    entries.append(Entry("chance", "chance", chance, 0.0))
    return sorted(entries, key=lambda e: -(e.value or 0.0)), seconds


def _answers(
    questions: Sequence[Asked], encoder: Any, data: Dataset, pair: Any
) -> list[dict[str, float]]:
    return [answer(one, encoder, data, pair, 0) for one in questions]


def _written(folder: Path, found: Comparison, study: Study, outcomes: Outcomes) -> Comparison:
    """The comparison with the outcomes so far, also in the folder."""
    from amodal.studies.curves import draw_curves

    yardsticks = [entry for entry in found.entries if entry.kind != "candidate"]
    about = found.about | {"steps": study.steps_of(study.cells([""], study.rungs - 1)[0])}
    now = Comparison(
        found.title, entries_of(study, outcomes, yardsticks), found.left_out, about, folder
    )
    now.save(folder)
    draw_curves(now, folder / "curves.png")
    return now


def tested(
    folder: Path,
    dataset: Dataset,
    about: Task,
    setup: Setup,
    study: Study,
    found: Comparison,
    progress: bool,
) -> Comparison:
    """Train the winner once more, into a run, and measure it on the test part."""
    winner = found.winner
    assert winner is not None
    candidate = study.candidate(winner.name)
    job = Job(
        candidate,
        "",
        0,
        study.rungs - 1,
        study.steps_of(study.cells([winner.name], study.rungs - 1)[0]),
    )
    run = folder / RUN
    if not (run / "model.safetensors").exists():
        pretrain(
            candidate.method,
            setup.dataset,
            run,
            recipe=shortened(setup.recipe(candidate), setup.steps(job)),
            size=candidate.size or setup.size,
            options=dict(candidate.options),
            backbones=dict(candidate.backbones or setup.backbones) or None,
            seed=study.seeds[0],
            progress=progress,
            logger=None,
            resume=(run / "config.json").exists(),
        )
    saved = load_run(run)
    choice, questions = found.choice or winner, about.questions
    if choice.protocol:
        questions = tuple(one.with_protocol(choice.protocol) for one in questions)
    report = evaluate(
        Trained(saved.encoder.eval(), saved.config, read_trained(run)),
        setup.dataset,
        label=about.label,
        protocols=sorted({one.protocol for one in (*questions, *about.questions)}) or None,
        progress=progress,
    )
    report.save(folder / REPORT, figures=False)
    test = [_value(one, report.rows(), choice, [*dataset.fields]) for one in questions]
    values = [value for value in test if value is not None]
    if values and len(values) == len(test):
        found.about["test"] = mean(values)
    found.about["summary"] = report.about.get("summary", "")
    found.about["run"] = RUN
    found.save(folder)
    return found


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
    column = "simple" if choice.kind == "simple" else "joined" if choice.how == JOINED else "value"
    return None if row is None or column not in row else float(row[column])
