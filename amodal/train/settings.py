"""What `pretrain` may be asked for, beside the method, the data and the folder of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from amodal import methods
from amodal.core import AmodalError, Recipe, unknown
from amodal.core.recipe import NAMES, renamed
from amodal.data import Dataset
from amodal.train.callbacks import Callback
from amodal.train.loggers import Logger, checked

CACHED = ("", "mean", "tokens")


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    recipe: how it is trained; each of its fields may be given as a setting. size, trunk, positions,
    pool: of the encoder (see `amodal.nn.encoder.Encoder`); by default what the method's paper uses.
    fields: the fields to use, all unless given. backbones: field -> pretrained backbone, which
    stays as it is unless train_backbones. resume: go on with the run in `out`. workers: processes
    that decode, 0 for a thread beside the training. save_every: steps between checkpoints, 0 for a
    fifth of the run. matmul: the library of float32 products on a CPU, auto (measured), torch or
    onednn.
        options: of the method. curate: a page of `amodal.curate` that chooses what is trained on,
    of super-batches 1 / keep as large; curate_options: its options. init_from: the folder of a run
    whose encoder's weights to begin with, as far as names and shapes agree. adapt: go on with that
    encoder itself, as it was built, to predict labels; what it holds is what a resumed run must
    agree with. only: (dataset, training records) -> those of them to learn from. cache_features:
    "mean" or "tokens" of the outputs of frozen backbones are computed once, of values that are not
    augmented (see `amodal.train.cache_features`); "" runs the backbones at every step. conflict:
    log whether the terms of the loss pull the same way, at each measurement; costs a few steps and
    changes nothing. callbacks: see `amodal.train.callbacks`. logger: tensorboard, wandb, mlflow,
    trackio, a callable (step, values) -> None, or some of them; None for metrics.jsonl alone.
    """

    recipe: Recipe = field(default_factory=Recipe)
    size: str = "tiny"
    fields: Sequence[str] | None = None
    seed: int = 0
    resume: bool = False
    trunk: str | None = None
    positions: str | None = None
    pool: str | None = None
    backbones: dict[str, str] | None = None
    train_backbones: bool = False
    workers: int = 0
    device: str = "auto"
    save_every: int = 0
    matmul: str = "auto"
    options: dict[str, object] = field(default_factory=dict)
    curate: str = ""
    curate_options: dict[str, object] = field(default_factory=dict)
    init_from: str | Path = ""
    adapt: dict[str, object] | None = None
    only: Callable[[Dataset, np.ndarray], np.ndarray] | None = None
    cache_features: str = ""
    conflict: bool = False
    progress: bool = True
    callbacks: Sequence[Callback] = ()
    logger: str | Logger | Sequence[str | Logger] | None = "tensorboard"

    def __post_init__(self) -> None:
        if self.cache_features not in CACHED:
            raise unknown("part of features to cache", self.cache_features, CACHED[1:])
        object.__setattr__(self, "logger", checked(self.logger))

    @property
    def encoder(self) -> dict[str, str]:
        """What was asked of the encoder."""
        asked = {"trunk": self.trunk, "positions": self.positions, "pool": self.pool}
        return {name: value for name, value in asked.items() if value is not None}


SETTINGS = tuple(f.name for f in fields(Settings))
LENGTHS = ({"epochs", "steps"}, {"warmup_epochs", "warmup_steps"})
"""Two ways to say one thing: to set one takes back what a recipe says by the other."""


def read_settings(method: methods.MethodLike, settings: Mapping[str, Any]) -> Settings:
    """Settings by keywords, of which some are fields of a recipe; None stands for a default.

    The recipe is the one that is given, or else the one of the method's page; fields change it.
    Raises AmodalError for unknown names.
    """
    asked = {name: value for name, value in renamed(settings).items() if value is not None}
    if "logger" in settings:
        asked["logger"] = settings["logger"]
    for name in asked:
        if name not in SETTINGS and name not in NAMES:
            raise unknown("setting of pretrain", name, [*SETTINGS, *NAMES])
    base = recipe_of(method, asked.pop("recipe", None))
    changes = {name: asked.pop(name) for name in NAMES if name in asked}
    return Settings(recipe=changed(base, changes), **asked)


def recipe_of(method: methods.MethodLike, recipe: object = None) -> Recipe:
    """The recipe that is given, or else the one of the method's page."""
    if recipe is None:
        return methods.recipe(method)
    if not isinstance(recipe, Recipe):
        raise AmodalError(f"recipe must be an amodal.Recipe, not {type(recipe).__name__}")
    return recipe


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields changed."""
    reset: dict[str, Any] = {}
    for pair in LENGTHS:
        if len(pair & changes.keys()) == 1:
            reset |= dict.fromkeys(pair - changes.keys())
    return Recipe.of(reset | dict(changes), recipe)
