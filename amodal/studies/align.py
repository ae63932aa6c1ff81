"""`amodal.align`: lead frozen encoders into one space, by whatever does so best on this data.

OUT/                   the run of what was chosen, as of `pretrain`
OUT/alignment.json     what was compared, and the scores
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from amodal import __version__
from amodal import data as records
from amodal.console import stderr
from amodal.core import AmodalError
from amodal.core.argument_types import check_type, has_names, is_list_of_words, is_path
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.studies.candidate import Candidate
from amodal.studies.outcome import Outcome
from amodal.studies.study import Study
from amodal.studies.task import task_of
from amodal.studies.trainer import Setup, Trainer
from amodal.studies.worker import run as work
from amodal.train import distributed
from amodal.train.cache_features import with_cached_features
from amodal.train.pretrain import build, open_inputs, pick_device, pretrain
from amodal.train.run_dir import mark_chosen, read_config
from amodal.train.settings import read_settings

FILE = "alignment.json"
CLOSED_FORM = "closed form"
JOURNAL = ".trials-"
"""How the name begins of the file of trials in the run folder, until one is chosen."""
PATIENCE = 15.0
"""Seconds after which the trial of a process that gives no sign of life is begun anew."""
WIDE = "base"
"""Size of the encoder for maps alone: there is no trunk, so its width is all that it decides."""
OF_MAPS = ("cca", "linear_heads")
"""Methods for which that is so."""
BATCH_SIZE = 256
EPOCHS, MIN_STEPS, MAX_STEPS = 12, 100, 2000
"""Of a trial."""

CANDIDATES = (
    Candidate("cca", recipe={"steps": 1}, size=WIDE, name=CLOSED_FORM),
    *(
        Candidate(
            "linear_heads",
            {"dropout": dropout},
            size=WIDE,
            recipe={"weight_decay": decay},
            name=f"linear heads, dropout {dropout:g}, weight decay {decay:g}",
        )
        for dropout, decay in ((0.0, 0.05), (0.3, 0.05), (0.5, 0.05), (0.5, 1.0))
    ),
    Candidate(
        "linear_heads",
        {"dropout": 0.5, "hidden": 512},
        size=WIDE,
        name="perceptrons, dropout 0.5",
    ),
    Candidate("ape", size="tiny", name="APE"),
)
"""The closed form, and what may be better."""


@dataclass(frozen=True)
class Alignment:
    """What `align` chose.

    Args:
        run: The run folder.
        chosen: The name of the candidate, or the method that was asked for.
        scores: Candidate -> mean Recall@10 on the validation part, both ways of all pairs of
            fields; empty where a method was asked for.
        noise: The standard error of a score.
        summary: A sentence for people, "" where a method was asked for.
    """

    run: Path
    chosen: str
    scores: Mapping[str, float]
    noise: float
    summary: str

    def save(self) -> None:
        """Write alignment.json into the run folder."""
        self.run.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in vars(self).items() if name != "run"}
        (self.run / FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@fast_products()
def align(
    data: Any,
    out: str | Path,
    backbones: Mapping[str, Any],
    *,
    method: str = "",
    tokens: bool = False,
    size: str = "",
    fields: Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Alignment:
    """Align frozen encoders in one space.

    Their features are computed once and cached. Without a method, maps in closed form, linear heads
    and perceptrons with dropout are compared on the validation part, and the best one is trained:
    the closed form, unless another is better by more than noise.

    Args:
        data: As `amodal.open` takes it.
        out: The run folder to write.
        backbones: Field -> the encoder, which stays frozen.
        method: Take this one instead.
        tokens: Cache all tokens, for methods that need them; only with a method.
        size: Of the encoder around the backbones; by default wide for maps alone, tiny for others.
        fields: To learn from; all by default.
        options: Of the method.
        resume: Continue the run in `out`.
        progress: Show bars.
        settings: Of `pretrain`: `seed`, `device`, and fields of a `Recipe`.

    Raises:
        AmodalError: For a mistake in the arguments or the data.
    """
    check_type("out", out, is_path, "the run folder to write")
    check_type("backbones", backbones, has_names, "field -> backbone, such as {'image': SPEC}")
    check_type("fields", fields or [], is_list_of_words, "a list of names, such as ['image']")
    check_type("options", options or {}, has_names, "a dict of name -> value")
    common = {"backbones": dict(backbones), "progress": progress, **settings}
    earlier = _earlier(Path(out)) if resume else None
    if method:
        size = size or (WIDE if method in OF_MAPS else "tiny")
        pretrain(
            method,
            data,
            out,
            options=dict(options or {}),
            size=size,
            fields=fields,
            resume=resume,
            cache_features="tokens" if tokens else "mean",
            **common,
        )
        return Alignment(Path(out), method, {}, 0.0, "")
    _check_free(options, tokens)
    if resume and earlier is None and (Path(out) / "config.json").exists():
        before = read_config(Path(out) / "config.json")["method"]
        raise AmodalError(f"the run in {out} was started with a method; add --method {before}")
    if not resume and (Path(out) / "config.json").exists():
        raise AmodalError(
            f"{out} holds a run already; add --resume to continue it, or choose another --out"
        )
    dataset = records.open(data)
    dataset = dataset.select(list(fields)) if fields else dataset
    recipe = {
        name: value
        for name, value in settings.items()
        if name in read_settings("cca", settings).recipe_fields
    }
    setup = _setup(dataset, backbones, size)
    steps = int(recipe.pop("steps", 0)) or _steps(dataset)
    candidates = tuple(_changed(c, recipe, size) for c in CANDIDATES)
    study = Study(candidates, (int(settings.get("seed") or 0),), steps, rungs=1, name="align")
    alignment = earlier or _compared(study, setup, Path(out), progress, settings)
    # before training, so that a run that is resumed is of what was chosen
    alignment.save()
    _train(study, setup, alignment, {n: v for n, v in common.items() if n not in recipe}, resume)
    return alignment


def _check_free(options: Mapping[str, object] | None, tokens: bool) -> None:
    """Raise AmodalError for what only a method that is asked for can have."""
    if options:
        raise AmodalError(
            f"options of a method ({', '.join(options)}) need the method: --method NAME; without "
            "one it is chosen"
        )
    if tokens:
        raise AmodalError(
            "all tokens are cached for methods that read parts of a value, and the methods that "
            "are chosen among read whole values; add --method NAME, or leave tokens out"
        )
    distributed.start()
    if distributed.world() > 1:
        raise AmodalError(
            "methods are compared in one process; choose one with --method NAME, such as "
            "linear_heads, to train on more"
        )


def _setup(dataset: Dataset, backbones: Mapping[str, Any], size: str) -> Setup:
    return Setup(
        dataset,
        task_of(dataset, task="retrieval").questions,
        size=size or WIDE,
        batch_size=BATCH_SIZE,
        backbones=dict(backbones),
        cache_features="mean",
    )


def _steps(dataset: Dataset) -> int:
    steps = round(EPOCHS * len(dataset.split("train")) / BATCH_SIZE)
    return min(max(steps, MIN_STEPS), MAX_STEPS)


def _changed(candidate: Candidate, recipe: Mapping[str, Any], size: str) -> Candidate:
    """A candidate with what the user has set."""
    return replace(candidate, recipe={**candidate.recipe, **recipe}, size=size or candidate.size)


def _compared(
    study: Study, setup: Setup, out: Path, progress: bool, settings: Mapping[str, Any]
) -> Alignment:
    """Train and measure all candidates, and choose one of them.

    Features and trials that are done lie on disk: repeated after a kill, it goes on with them.
    """
    if progress:
        _print_start(study, setup)
    try:
        _compute_features(study, setup, progress, settings)
        with tempfile.TemporaryDirectory() as folder:
            journal = _journal(study, setup, out) or Path(folder) / "study.journal"
            outcomes = work(
                study, Trainer({"": setup}), journal, progress=progress, patience=PATIENCE, every=3
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; the same command goes on with the features and trials that are done"
        ) from None
    for file in out.glob(f"{JOURNAL}*"):
        file.unlink(missing_ok=True)
    return chosen({cell.candidate: one for cell, one in outcomes.items()}, out)


def _print_start(study: Study, setup: Setup) -> None:
    dataset = setup.dataset
    encoders = ", ".join(f"{field} by {spec}" for field, spec in setup.backbones.items())
    stderr().print(
        f"[bold]align[/] on {escape(dataset.name)}: {len(dataset.split('train')):,} of "
        f"{len(dataset):,} records to train on; {escape(encoders)}\n"
        f"first the features of the frozen encoders, once, then {len(study.candidates)} ways to "
        "lead them into one space",
        highlight=False,
    )


def _compute_features(
    study: Study, setup: Setup, progress: bool, settings: Mapping[str, Any]
) -> None:
    """Fill the cache of features, under a bar of its own: most of the time is theirs."""
    candidate = study.candidates[0]
    job = study.job(study.cells([candidate.name], 0)[0])
    options = setup.run_settings(job) | {"progress": False, "logger": None}
    read = read_settings(candidate.method, options | {"device": settings.get("device", "auto")})
    with tempfile.TemporaryDirectory() as folder:
        inputs = open_inputs(candidate.method, setup.dataset, read, Path(folder) / "run")
        encoder, device = build(inputs).encoder, pick_device(read.device)
        with_cached_features(
            inputs.dataset, encoder.to(device), device, pooled=True, progress=progress
        )


def _journal(study: Study, setup: Setup, out: Path) -> Path | None:
    """Where the trials of this comparison are written: another one has another name. None where an
    encoder is an object in memory, which a later call cannot be known to pass again."""
    if not all(isinstance(spec, str) for spec in setup.backbones.values()):
        return None
    about = [setup.dataset.fingerprint, dict(setup.backbones), study.written(), __version__]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=8)
    return out / f"{JOURNAL}{digest.hexdigest()}"


def chosen(outcomes: Mapping[str, Outcome], out: Path) -> Alignment:
    """Choose the best candidate, or the closed form if it is level within noise.

    Args:
        outcomes: Candidate -> outcome of its trial.
        out: The run folder.

    Raises:
        AmodalError: If no trial has a score.
    """
    scores = {name: o.score for name, o in outcomes.items() if o.score is not None}
    if not scores:
        raise AmodalError(f"nothing could be trained: {next(iter(outcomes.values())).failed}")
    best = max(scores, key=lambda name: (scores[name], name == CLOSED_FORM, name))
    noise = standard_error(outcomes[best])
    choice = best
    if CLOSED_FORM in scores and scores[best] - scores[CLOSED_FORM] <= noise:
        choice = CLOSED_FORM
    others = {name: score for name, score in scores.items() if name != CLOSED_FORM}
    other = max(others, key=lambda name: (others[name], name), default="")
    return Alignment(out, choice, scores, noise, _summary(choice, other, scores, noise))


def standard_error(outcome: Outcome) -> float:
    """Of a mean over questions, each of which has one."""
    errors = [float(task["standard_error"]) for task in outcome.details.get("tasks", {}).values()]
    return math.sqrt(sum(e * e for e in errors)) / max(len(errors), 1)


def _summary(choice: str, other: str, scores: Mapping[str, float], noise: float) -> str:
    first = f"chose {choice}: Recall@10 {scores[choice]:.3f} on the validation part"
    if choice != CLOSED_FORM:
        closed = f"has {scores[CLOSED_FORM]:.3f}" if CLOSED_FORM in scores else "failed"
        return f"{first}; the {CLOSED_FORM} {closed}"
    if not other:
        return first
    if scores[other] <= scores[choice]:
        return f"{first}; the best other, {other}, has {scores[other]:.3f}"
    return f"{first}; {other} has {scores[other]:.3f}, level within noise ({noise:.3f})"


def _train(
    study: Study, setup: Setup, alignment: Alignment, settings: Mapping[str, Any], resume: bool
) -> None:
    """Train what was chosen, into its run folder."""
    candidate = study.candidate(alignment.chosen)
    job = study.job(study.cells([candidate.name], 0)[0])
    settings = {n: v for n, v in settings.items() if n != "steps"}
    pretrain(
        candidate.method,
        setup.dataset,
        alignment.run,
        resume=resume and (alignment.run / "config.json").exists(),
        **setup.run_settings(job) | settings,
    )
    if distributed.rank() == 0:
        mark_chosen(alignment.run)


def _earlier(out: Path) -> Alignment | None:
    """What an earlier call chose; None before it had."""
    file = out / FILE
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Alignment(out, **values)
