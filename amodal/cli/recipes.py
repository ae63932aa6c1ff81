"""The options of a recipe, made from the fields of `Recipe`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Optional

from tyro.conf import arg

from amodal.cli.options import pairs
from amodal.core.recipe import HELP, NAMES, TYPES, Recipe


def _option(name: str) -> tuple[str, Any, Any]:
    """(name, type, default) of a field. The default None means that the option is not set."""
    default = getattr(Recipe(), name)
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    hint = "" if default is None else f"(default: {shown})"
    metavar = "FIELD=VIEW,VIEW" if name == "views" else None
    described = arg(help=HELP[name], help_behavior_hint=hint, metavar=metavar)
    if name == "views":
        return name, Annotated[tuple[str, ...], described], dataclasses.field(default=())
    if TYPES[name] is bool:
        return name, Annotated[bool, described], dataclasses.field(default=False)
    kind: Any = Optional[TYPES[name]]  # noqa: UP045, a type that is only known at run time
    return name, Annotated[kind, described], dataclasses.field(default=None)


RecipeOptions = dataclasses.make_dataclass(
    "RecipeOptions", [_option(name) for name in NAMES], frozen=True
)
"""Every field of a `Recipe` as an option. Unset ones are left to the method's page."""


def recipe_fields(options: Any) -> dict[str, Any]:
    """The fields of a recipe that the command line sets."""
    fields = {
        n: v for n, v in vars(options).items() if v is not None and v is not False and v != ()
    }
    if "views" in fields:
        fields["views"] = {k: v.split(",") for k, v in pairs(fields["views"]).items()}
    return fields


def with_file(config: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a TOML file, overridden by those of the command line."""
    from amodal.train import run_config
    from amodal.train.settings import LENGTHS

    from_file = run_config.read(config, settings)
    merged = dict(settings)
    for name in ("options", "curate_options", "backbones"):
        merged[name] = {**from_file.get(name, {}), **settings.get(name, {})}
    for units in LENGTHS:
        # steps of the command line replace epochs of the file, and the reverse
        if len(units & settings.keys()) == 1:
            for name in units - settings.keys():
                from_file.pop(name, None)
    return from_file | merged
