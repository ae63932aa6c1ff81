"""The settings of `pretrain`, beside the method, the data and the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal import methods
from amodal.core import AmodalError, Recipe, unknown
from amodal.core.recipe import NAMES, renamed
from amodal.core.run_options import RunOptions
from amodal.core.usual_names import unknown_setting
from amodal.data import Dataset
from amodal.methods.recipes import choose
from amodal.methods.saved import BackboneLike
from amodal.modalities import name_of
from amodal.train.callbacks import Callback
from amodal.train.hooks import check_callbacks
from amodal.train.loggers import Logger, check_loggers
from amodal.train.setting_types import typed

CACHED = ("", "mean", "tokens")
ALL = "all"
"""In `views` of a recipe: every field."""
OWN = "own"
"""`recipe_from` of a recipe that is passed."""


@dataclass(frozen=True)
class Settings(RunOptions):
    """The settings of a run: `RunOptions`, and what only code can say.

    Args:
        recipe: How it is trained. Each field of a `Recipe` is also a setting of its own.
        recipe_fields: The fields of the recipe that are set beside it.
        options: Of the method.
        curate_options: Of the page of `amodal.curate` that selects records.
        adapt: Train the encoder of `init_from` itself, unchanged in structure, to predict labels. A
            resumed run must agree with its contents.
        only: (dataset, training records) -> the training records to learn from.
        callbacks: See `amodal.train.callbacks`.
        init_method: The method of the run of `init_from`, if it is of the user's own.
        init_backbones: Its backbones of the user's own: field -> module, what makes it, or a
            reference to either.
    """

    recipe: Recipe = field(default_factory=Recipe)
    recipe_fields: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    curate_options: dict[str, object] = field(default_factory=dict)
    adapt: dict[str, object] | None = None
    only: Callable[[Dataset, npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None
    progress: bool = True
    callbacks: Sequence[Callback] = ()
    init_method: methods.MethodLike | None = None
    init_backbones: Mapping[str, BackboneLike] | None = None

    def __post_init__(self) -> None:
        if self.cache_features not in CACHED:
            raise unknown("part of features to cache", self.cache_features, CACHED[1:])
        check_loggers(self.logger)
        check_callbacks(self.callbacks)
        if self.accept_changed_code and not self.resume:
            raise AmodalError(
                "accept_changed_code (--accept-changed-code) is for a run that is resumed; add "
                "resume, or leave it out"
            )

    @property
    def loggers(self) -> tuple[str | Logger, ...]:
        return check_loggers(self.logger)

    @property
    def encoder(self) -> dict[str, Any]:
        """The arguments of the encoder that are set."""
        names = ("size", "trunk", "positions", "pool", "experts")
        arguments = {name: getattr(self, name) for name in names}
        return {name: value for name, value in arguments.items() if value is not None}


SETTINGS = tuple(f.name for f in fields(Settings))
SIZE = "tiny"
"""Of encoders for which none is set."""
LENGTHS = ({"epochs", "steps"}, {"warmup_epochs", "warmup_steps"})
"""Two units of one length. Setting one resets the other."""


def read_settings(method: methods.MethodLike, settings: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments, some of which may be fields of a recipe.

    Args:
        method: Its page has the recipe that is used unless `recipe` is among the settings.
        settings: Name -> value. None stands for the default.

    Raises:
        AmodalError: For unknown names, and values of wrong types.
    """
    chosen = {name: value for name, value in renamed(settings).items() if value is not None}
    if "logger" in settings:
        chosen["logger"] = settings["logger"]
    for name in chosen:
        if name not in SETTINGS and name not in NAMES:
            raise unknown_setting("setting of pretrain", name, [*SETTINGS, *NAMES])
    chosen = typed(chosen)
    recipe = chosen.pop("recipe", None)
    if isinstance(recipe, str):
        chosen["recipe_from"] = recipe
    elif recipe is not None:
        chosen["recipe_from"] = OWN
    base = recipe_of(method, chosen.get("recipe_from", "") if recipe is None else recipe)
    changes = {name: chosen.pop(name) for name in NAMES if name in chosen}
    chosen["recipe_fields"] = tuple(changes)
    return Settings(recipe=with_changes(base, changes), **chosen)


def for_data(
    method: methods.MethodLike, settings: Settings, dataset: Dataset, records: int
) -> Settings:
    """The settings with the recipe that is chosen by the data, where none is chosen yet.

    Views that a page gives for kinds of data that are not here are left out.

    Args:
        dataset: With the fields to learn from.
        records: To learn from.
    """
    kinds = {name_of(modality) for modality in dataset.fields.values()}
    if settings.adapt is None and settings.recipe_from not in (OWN, "paper", "plain"):
        base, used = choose(
            methods.title(method),
            methods.page_recipe(method),
            settings.recipe_from,
            paper=methods.paper_recipe(method),
            large=methods.paper_records(method),
            records=records,
            kinds=kinds,
        )
        if used in ("small", "paper"):
            changes = {name: getattr(settings.recipe, name) for name in settings.recipe_fields}
            settings = replace(settings, recipe=with_changes(base, changes), recipe_from=used)
    if settings.recipe_from != OWN and "views" not in settings.recipe_fields:
        known = {*kinds, *dataset.fields, ALL}
        here = {n: v for n, v in (settings.recipe.views or {}).items() if n in known}
        settings = replace(settings, recipe=replace(settings.recipe, views=here or None))
    return settings


def recipe_of(method: methods.MethodLike, recipe: object = None) -> Recipe:
    """`recipe`; the one of a name of `recipes.CHOICES`; or the method's page's where it is None."""
    if recipe is None or recipe == "":
        return methods.recipe(method)
    if recipe == OWN:  # of a config.toml, which has all of its fields
        return Recipe()
    if isinstance(recipe, str):
        paper = methods.paper_recipe(method)
        return choose(methods.title(method), methods.page_recipe(method), recipe, paper=paper)[0]
    if not isinstance(recipe, Recipe):
        raise AmodalError(f"recipe must be an amodal.Recipe, not {type(recipe).__name__}")
    return recipe


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields changed."""
    reset: dict[str, Any] = {}
    for pair in LENGTHS:
        if len(pair & changes.keys()) == 1:
            reset |= dict.fromkeys(pair - changes.keys())
    return Recipe.of(reset | dict(changes), recipe)
