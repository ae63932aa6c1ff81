"""The objective of a study: train on the training part, measure on the validation part."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Protocol, cast

from torch import Tensor, nn

from amodal.core import AmodalError, Recipe
from amodal.core.process_memory import free_cycles
from amodal.data import Dataset
from amodal.evaluate.context import Pair
from amodal.inference.forward_passes import AnyEncoder
from amodal.nn.backbones.pretrained import TOKENS
from amodal.nn.encoder import Encoder
from amodal.studies.candidate import Candidate
from amodal.studies.label_free import label_free
from amodal.studies.limits import Check
from amodal.studies.outcome import Measured
from amodal.studies.questions import Question, SimpleFeatures, answer_all, embedded
from amodal.studies.study import Job, Study
from amodal.train import pretrain
from amodal.train.cache_features import reuse_features
from amodal.train.callbacks import Callback, OnlineProbe, OnlineRetrieval, OnLog, Progress
from amodal.train.run_setup import DEFAULT_EPOCHS
from amodal.train.settings import for_data, read_settings, with_changes

CURVE_POINTS = 5
"""Of the learning curve of a trial."""
LOGGED = 10
"""Steps between entries of a run's log."""


class Score(Protocol):
    """The score of a trial."""

    def __call__(self, data: str, values: Mapping[str, float]) -> float:
        """Higher is better.

        Args:
            data: The name of the dataset.
            values: Name of a task -> what was measured.
        """
        ...


def mean_score(data: str, values: Mapping[str, float]) -> float:
    """The mean over tasks."""
    return mean(values.values())


@dataclass(frozen=True)
class Setup:
    """A dataset of a study, and what is asked of a model of it.

    Args:
        dataset: With the fields to learn from.
        questions: At least one, but where `label_free` is all that is asked.
        size: Of the encoder, for candidates that do not say.
        batch_size: Rows of a step, for candidates that do not say; None for the method's own.
        backbones: Field -> pretrained backbone, for candidates without any.
        equal_records: Whether a candidate with another batch size takes as many more or fewer
            steps, so that all see equally many records.
        simple: Simple features, to measure candidates with these beside them too. The score is then
            that of the better one.
        small_recipes: Whether candidates start from the recipe and the networks that `pretrain`
            would choose for this data; else from the recipe of the method's page, and from tokens.
        label_free: Whether to measure what needs no labels too. Without questions that is all there
            is, and the score is RankMe.
        cache_features: Of frozen backbones, see `amodal.train.cache_features`. Measured are the
            same features, and there is no learning curve.
    """

    dataset: Dataset
    questions: Sequence[Question]
    size: str = "tiny"
    batch_size: int | None = None
    backbones: Mapping[str, str] = field(default_factory=dict)
    equal_records: bool = False
    simple: SimpleFeatures | None = None
    small_recipes: bool = False
    label_free: bool = False
    cache_features: str = ""

    def __post_init__(self) -> None:
        if not self.questions and not self.label_free:
            raise AmodalError("a study needs a question, or label-free scores")

    def recipe(self, candidate: Candidate) -> Recipe:
        """The recipe of a candidate, of any length."""
        if not self.small_recipes:
            return candidate.full_recipe()
        records = len(self.dataset.split("train"))
        usual = for_data(
            candidate.method, read_settings(candidate.method, {}), self.dataset, records
        )
        return with_changes(usual.recipe, candidate.recipe)

    def measured(self, encoder: nn.Module, candidate: Candidate) -> Dataset:
        """The dataset with an encoder's fields, or with the cached features of its backbones."""
        how = self.cached(candidate)
        if not how:
            return self.dataset
        dataset = self.dataset.with_fields(cast(Encoder, encoder).fields)
        device = next(encoder.parameters()).device
        return reuse_features(dataset, encoder, device, pooled=how == "mean")

    def embedded(
        self, encoder: nn.Module, candidate: Candidate, part: str, check: Check
    ) -> tuple[Dataset, Pair, Pair | None]:
        """The records of a part as a trained candidate embeds them.

        Args:
            encoder: In evaluation mode.
            candidate: Whose it is.
            part: Of the split.
            check: Called now and then.

        Returns:
            The dataset with the encoder's fields; the training records and those of the part; the
            same in simple features, None without such.
        """
        data, pair = embedded(encoder, self.measured(encoder, candidate), part, check)
        if self.simple is None or not self.questions:
            return data, pair, None
        # of the values as they are, whatever reads them
        cached = self.cached(candidate)
        plain = self.dataset if cached else data
        fields = plain.fields if cached else cast(AnyEncoder, encoder).fields
        return data, pair, self.simple.beside(fields, plain, part, pair)

    def cached(self, candidate: Candidate) -> str:
        """Which features of its backbones are cached, see `cache_features`."""
        return candidate.cache_features or self.cache_features

    def run_settings(self, job: Job) -> dict[str, Any]:
        """The settings of `pretrain` that a job decides, beside method, data and run folder."""
        candidate = job.candidate
        recipe = shortened(self.recipe(candidate), self.steps(job))
        if "batch_size" not in candidate.recipe and self.batch_size is not None:
            recipe = replace(recipe, batch_size=self.batch_size)
        return {
            "recipe": recipe,
            "size": candidate.size or self.size,
            "seed": job.seed,
            "options": dict(candidate.options),
            "backbones": self._backbones(candidate) or None,
            "cache_features": self.cached(candidate),
        }

    def _backbones(self, candidate: Candidate) -> dict[str, str]:
        """Those of a candidate; `TOKENS` for other fields, where no default is asked for."""
        backbones = dict(candidate.backbones or self.backbones)
        usual = {} if self.small_recipes else dict.fromkeys(self.dataset.fields, TOKENS)
        return usual | backbones

    def steps(self, job: Job) -> int:
        """Steps of a job; no more than a candidate's own recipe has."""
        recipe_steps = job.candidate.recipe.get("steps")
        if recipe_steps is not None:
            return min(job.steps, int(recipe_steps))
        rows = job.candidate.recipe.get("batch_size")
        if not self.equal_records or rows is None or self.batch_size is None:
            return job.steps
        return max(1, round(job.steps * self.batch_size / int(rows)))


@dataclass(frozen=True)
class Trainer:
    """Trains a candidate and measures it. An objective of `amodal.studies.run`.

    Args:
        setups: Dataset's name -> the dataset and its questions; "" in a study of one.
        score: Of the values of all questions; their mean by default.
        part: Of the split that is measured: valid, or test for the one that was chosen.
    """

    setups: Mapping[str, Setup]
    score: Score = mean_score
    part: str = "valid"

    def __call__(self, job: Job, check: Check) -> Measured:
        """Train, and measure.

        Raises:
            AmodalError: If the method does not fit the data, diverges, or collapses.
        """
        setup, curve = self.setups[job.data], list[tuple[int, dict[str, float]]]()
        steps = setup.steps(job)
        cached = setup.cached(job.candidate)
        callbacks = [Stop(check), *([] if cached else _curves(setup, steps, curve))]
        encoder = trained(setup, job, callbacks)
        check()
        data, pair, beside = setup.embedded(encoder.eval(), job.candidate, self.part, check)
        measured = answer_all(setup.questions, encoder, data, pair, job.seed, check, beside)
        details = {"part": self.part, "steps": steps, "tasks": measured, "curve": curve}
        if setup.label_free:
            free = label_free(cast(AnyEncoder, encoder), data, pair[0], job.seed, check)
            details["label_free"] = free
            if not setup.questions:
                return Measured(free["RankMe"], details)
        values = {name: one["value"] for name, one in measured.items()}
        score = self.score(job.data, values)
        if all("joined" in one for one in measured.values()):
            both = {name: one["joined"] for name, one in measured.items()}
            score = max(score, self.score(job.data, both))
        return Measured(score, details)


def final(study: Study, name: str) -> Study:
    """The study that measures a winner, on the test part: `run` it with a `Trainer` of that part.

    It is trained from scratch once more, with the same seeds. So no test record has been seen by
    whatever chose it, and what a study measures does not depend on its being stored.

    Args:
        study: That it has won.
        name: Of the winner.
    """
    last = study.eta ** (study.rungs - 1)
    steps = {data: round(steps * last) for data, steps in study.first_steps.items()}
    winner = (study.candidate(name),)
    return replace(study, candidates=winner, steps=steps, rungs=1, name=f"{study.name}/test")


def trained(setup: Setup, job: Job, callbacks: Sequence[Callback] = ()) -> nn.Module:
    """The encoder of a candidate after the steps of a job, on the training part."""
    try:
        return _trained(setup, job, callbacks)
    finally:
        free_cycles()


def _trained(setup: Setup, job: Job, callbacks: Sequence[Callback]) -> nn.Module:
    method, steps = job.candidate.method, setup.steps(job)
    quiet = {"callbacks": callbacks, "save_every": steps, "progress": False, "logger": None}
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(method, setup.run_settings(job) | quiet)
        out = Path(folder) / "run"
        inputs = pretrain.open_inputs(method, setup.dataset, settings, out)
        built = pretrain.build(inputs)
        prepared = pretrain.prepare(inputs, built, out)
        return pretrain.fit(inputs, built, prepared)


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with its whole schedule in that many steps.

    Each rung trains from scratch with a schedule of its own. A run that is continued from the rung
    below would have spent a part of its steps at a learning rate that had fallen to zero, or the
    rung below would be judged before its rate fell: both favour methods that are quick at first.
    It needs no run folders that machines share, and costs at most twice as much: with eta 2, rungs
    of 1, 2, 4 units cost 7 where a continued run would cost 4.

    Args:
        recipe: Of any length.
        steps: Of the new one.
    """
    warmup = recipe.warmup
    if recipe.warmup_epochs is not None:
        warmup = recipe.warmup_epochs / (recipe.epochs or DEFAULT_EPOCHS)
    elif recipe.warmup_steps is not None and recipe.steps is not None:
        warmup = recipe.warmup_steps / recipe.steps
    return replace(
        recipe,
        steps=steps,
        epochs=None,
        warmup=min(warmup, 1.0),
        warmup_steps=None,
        warmup_epochs=None,
    )


@dataclass(frozen=True)
class Stop:
    """Ends a training that has to end.

    Args:
        check: Called after each step.
    """

    check: Check

    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        self.check()


@dataclass(frozen=True)
class Curve:
    """Keeps what a callback adds to the log.

    Args:
        callback: Measures something now and then.
        points: Where (step, values) are added.
    """

    callback: OnLog
    points: list[tuple[int, dict[str, float]]]

    def on_log(self, progress: Progress, values: Mapping[str, float]) -> None:
        measured = self.callback.on_log(progress, values)
        if measured:
            rounded = {name: round(float(value), 4) for name, value in measured.items()}
            self.points.append((progress.step, rounded))


def _curves(setup: Setup, steps: int, points: list[tuple[int, dict[str, float]]]) -> list[Callback]:
    """The learning curve of the first question, where it is cheap: a few forward passes."""
    if not setup.questions:
        return []
    first = setup.questions[0]
    every = max(steps // CURVE_POINTS // LOGGED, 1) * LOGGED
    callback: OnlineProbe | OnlineRetrieval
    try:
        if first.protocol == "retrieval":
            callback = OnlineRetrieval(setup.dataset, every=every)
        elif first.label is not None and "," not in first.label:
            callback = OnlineProbe(setup.dataset, first.label, every=every)
        else:
            return []
    except AmodalError:  # too few validation records for a curve; the score is measured anyhow
        return []
    return [Curve(callback, points)]
