"""The options of a recipe, made from its fields, and what a command line says of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Optional

from tyro.conf import arg

from amodal.cli.options import pairs
from amodal.core.recipe import HELP, NAMES, TYPES, Recipe


def _option(name: str) -> tuple[str, Any, Any]:
    """(name, type, default) of a field: None where the command line does not say it."""
    default = getattr(Recipe(), name)
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    hint = "" if default is None else f"(default: {shown})"
    metavar = "FIELD=VIEW,VIEW" if name == "views" else None
    described = arg(help=HELP[name], help_behavior_hint=hint, metavar=metavar)
    if name == "views":
        return name, Annotated[tuple[str, ...], described], dataclasses.field(default=())
    if TYPES[name] is bool:
        return name, Annotated[bool, described], dataclasses.field(default=False)
    kind = Optional[TYPES[name]]  # noqa: UP045, a type that is only known here
    return name, Annotated[kind, described], dataclasses.field(default=None)


RecipeOptions = dataclasses.make_dataclass(
    "RecipeOptions", [_option(name) for name in NAMES], frozen=True
)
"""Every field of a Recipe as an option; what is not said is left to the page of the method."""


def asked_of(options: Any) -> dict[str, Any]:
    """The fields of a recipe that the command line sets."""
    fields = {
        n: v for n, v in vars(options).items() if v is not None and v is not False and v != ()
    }
    if "views" in fields:
        fields["views"] = {k: v.split(",") for k, v in pairs(fields["views"]).items()}
    return fields


def with_file(config: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a TOML with those of the command line in their place."""
    from amodal.train import run_config

    found = run_config.read(config)
    for name in ("options", "curate_options"):
        asked = {**asked, name: {**found.get(name, {}), **asked.get(name, {})}}
    for name, other in (("epochs", "steps"), ("warmup_epochs", "warmup_steps")):
        for one, its in ((name, other), (other, name)):
            if one in asked and its not in asked:
                found.pop(its, None)
    return found | dict(asked)
