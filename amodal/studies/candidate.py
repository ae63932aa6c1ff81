"""What is compared: a method with its options, encoder and recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.train.settings import recipe_of, with_changes


@dataclass(frozen=True)
class Candidate:
    """One way to train.

    Args:
        method: The name of a method, or `package.module:function` or `file.py:function`.
        options: Of the method.
        backbones: Field -> pretrained backbone.
        size: Of the encoder; "" for the one that whoever trains it takes.
        recipe: Fields of a `Recipe` that differ from the method's own.
        name: How it is listed; by default what is written above.
        cache_features: Of its backbones, which are frozen then, see `amodal.train.cache_features`;
            "" for what whoever trains it does.

    Raises:
        AmodalError: For a method that is no text, and for fields that a recipe does not have.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    size: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    cache_features: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise AmodalError(
                "a candidate is stored, so its method must be a name, package.module:function or "
                f"file.py:function, not {self.method!r}"
            )
        with_changes(Recipe(), self.recipe)
        if not self.name:
            object.__setattr__(self, "name", self._described())

    def _described(self) -> str:
        named = {**self.options, **self.backbones, **self.recipe}
        parts = [methods.title(self.method), self.size, *(f"{k}={v}" for k, v in named.items())]
        return " ".join(part for part in parts if part)

    def full_recipe(self) -> Recipe:
        """The recipe of the method with this candidate's changes.

        Raises:
            AmodalError: If there is no such method.
        """
        return with_changes(recipe_of(self.method), self.recipe)

    def written(self) -> dict[str, Any]:
        """The candidate in JSON types."""
        values: dict[str, Any] = json.loads(json.dumps(vars(self), default=dict))
        if not self.cache_features:  # studies that were stored before it do not have it
            del values["cache_features"]
        return values
