"""The options of a run, made from the fields of `Recipe` and `RunOptions`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

from tyro.conf import arg

from amodal.cli.options import listed, numbers, pairs
from amodal.core.recipe import Recipe
from amodal.core.run_options import RunOptions

UNIONS = (typing.Union, types.UnionType)


def _members(kind: Any) -> set[Any]:
    """The classes that an annotation allows: {str, Path} for `str | Path | None`."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in UNIONS else (kind,)
    return {typing.get_origin(k) or k for k in kinds}


def _form(kind: Any) -> tuple[Any, Any]:
    """The type of an option on the command line, and its default, which says that it is not set."""
    members = _members(kind)
    if members & {dict, Mapping}:
        return tuple[str, ...], ()  # NAME=VALUE
    if Sequence in members:
        return str, ""  # A,B
    if bool in members:
        return bool, False
    return Optional[Path if Path in members else kind], None  # noqa: UP045, known at run time only


def _option(field: dataclasses.Field[Any], kind: Any) -> tuple[str, Any, Any]:
    """(name, type, default) of the option for a field."""
    described = field.metadata
    parsed, unset = _form(kind)
    default: Any = field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    hint = None if parsed is bool else f"(default: {shown})" if shown not in (None, "") else ""
    option = arg(
        help=described["help"],
        help_behavior_hint=hint,
        metavar=described.get("metavar") or None,
        name=described.get("name") or None,
    )
    return field.name, Annotated[parsed, option], dataclasses.field(default=unset)


def options_of(owner: type) -> Any:
    """A dataclass with an option for each field of a dataclass of settings.

    The help, and where they differ the name and metavar, are in the metadata of the fields.
    """
    hints = typing.get_type_hints(owner)
    options = [_option(f, hints[f.name]) for f in dataclasses.fields(owner)]
    return dataclasses.make_dataclass(f"{owner.__name__}Options", options, frozen=True)


RECIPE_GROUPS = {
    "optimization": "optimizer lr lr_scaling lr_multipliers layer_decay weight_decay "
    "weight_decay_end betas momentum clip drop_path ema",
    "schedule": "epochs steps stages schedule warmup warmup_steps warmup_epochs milestones "
    "decay_rate decay patience",
    "augmentation": "views resolution",
    "batch": "batch_size micro_batch_size precision gradient_checkpointing fsdp",
}
RUN_GROUPS = {
    "data": "fields curate",
    "model": "size trunk positions pool experts backbones train_backbones cache_features init_from",
    "run": "recipe_from seed resume accept_changed_code deterministic save_every logger conflict",
    "machine": "device workers matmul",
}
"""Heading of `--help` -> the fields below it."""


def grouped(owner: type, groups: Mapping[str, str]) -> Any:
    """A dataclass of dataclasses: the options for the fields of `owner`, by headings."""
    options = options_of(owner)
    fields = {f.name: f for f in dataclasses.fields(options)}
    hints = typing.get_type_hints(options, include_extras=True)
    headings: list[tuple[str, Any, Any]] = []
    for heading, names in groups.items():
        below: list[tuple[str, Any, Any]] = [
            (n, hints[n], dataclasses.field(default=fields[n].default)) for n in names.split()
        ]
        kind = dataclasses.make_dataclass(f"{heading.title()}Options", below, frozen=True)
        headings.append((heading, kind, dataclasses.field(default=kind())))
    return dataclasses.make_dataclass(f"{owner.__name__}Options", headings, frozen=True)


RecipeOptions = grouped(Recipe, RECIPE_GROUPS)
"""Every field of a `Recipe` as an option. Unset ones are left to the method's page."""
RunSettings = grouped(RunOptions, RUN_GROUPS)
"""Every field of `RunOptions` as an option. Unset ones are left to a file, and to the defaults."""


def _values(options: Any) -> dict[str, Any]:
    """Name -> value of options, also of those below headings."""
    values: dict[str, Any] = {}
    for name, value in vars(options).items():
        values |= _values(value) if dataclasses.is_dataclass(value) else {name: value}
    return values


def chosen(options: Any) -> dict[str, Any]:
    """Name -> value of the options of `RunOptions` that are set."""
    hints = typing.get_type_hints(RunOptions)
    values = {}
    for name, value in _values(options).items():
        members = _members(hints[name])
        if value is None or value is False or value in ("", ()):  # 0 is a value
            continue
        if members & {dict, Mapping}:
            value = pairs(value)
        elif Sequence in members:
            value = [] if value == "none" else listed(value)
        values[name] = value
    return values


def recipe_fields(options: Any) -> dict[str, Any]:
    """The fields of a recipe that the command line sets."""
    fields = {
        n: v for n, v in _values(options).items() if v is not None and v is not False and v != ()
    }
    if "views" in fields:
        fields["views"] = {k: v.split(",") for k, v in pairs(fields["views"]).items()}
    if "lr_multipliers" in fields:
        fields["lr_multipliers"] = numbers(fields["lr_multipliers"])
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
