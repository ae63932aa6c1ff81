"""One file per modality: decode, augment, tokenise, targets of a masked model, display.

The path is the name: `amodal/modalities/image.py` holds `Image`. An installed distribution adds one
by an entry point of the group `amodal.modalities`. Nothing outside this folder knows a modality by
its name: what others need is a hook or an attribute of `Modality`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, cast

from amodal.core import AmodalError, registry
from amodal.core.part import register_codec
from amodal.core.registry import Plugin
from amodal.modalities.shared.base import (
    VARIANTS,
    VIEWS,
    BadValue,
    DecodedValues,
    Modality,
    NoSimpleFeatures,
    Raw,
    SimpleFeatures,
    build,
)
from amodal.modalities.shared.guess import (
    ending_of,
    file_kind,
    folder_ending,
    folder_suffixes,
    guess,
    guess_column,
    guess_texts,
    header_suffixes,
    suffixes,
)

__all__ = [
    "VARIANTS",
    "VIEWS",
    "BadValue",
    "DecodedValues",
    "Modality",
    "NoSimpleFeatures",
    "Raw",
    "SimpleFeatures",
    "check_plugin",
    "config",
    "ending_of",
    "every",
    "file_kind",
    "folder_ending",
    "folder_suffixes",
    "guess",
    "guess_column",
    "guess_texts",
    "header_suffixes",
    "kind",
    "make",
    "name_of",
    "names",
    "of_columns",
    "restore",
    "suffixes",
]


def names() -> list[str]:
    """Names of all modalities: the package's own, then those of plug-ins."""
    return [*registry.pages("modalities"), *registry.plugins("modalities")]


def every() -> dict[str, type[Modality]]:
    """Name -> class, without the plug-ins that cannot be imported."""
    packaged = {name: _own(name) for name in registry.pages("modalities")}
    return packaged | registry.working("modalities", check_plugin)


def kind(name: str) -> type[Modality]:
    """The class of a modality: `kind("image").infer(samples)`.

    Raises:
        AmodalError: an unknown name; the message has the nearest ones. Also a name that several
            have.
    """
    plugin = registry.find_plugin("modalities", name)
    if plugin is not None:
        return cast(type[Modality], plugin.load(check_plugin))
    return _own(name)


def _own(name: str) -> type[Modality]:
    module = registry.load("modalities", name, "modality")
    return cast(type[Modality], getattr(module, module.__name__.rpartition(".")[2].capitalize()))


def check_plugin(plugin: Plugin, loaded: Any) -> None:
    """Check that the object of a plug-in is a modality of its name.

    Args:
        plugin: its entry point.
        loaded: the object.

    Raises:
        AmodalError: it is not.
    """
    if not isinstance(loaded, type) or not issubclass(loaded, Modality) or not is_dataclass(loaded):
        raise AmodalError(
            f"{plugin.entry.value} is no frozen dataclass that inherits amodal.modalities.Modality"
        )
    if registry.canonical(loaded.kind) != plugin.name:
        raise AmodalError(
            f"the class says kind = {loaded.kind!r}, its entry point {plugin.name!r}; they must "
            "be one name"
        )
    if not cast(Any, loaded).__dataclass_params__.frozen:
        raise AmodalError(f"{plugin.entry.value} must be frozen: @dataclass(frozen=True)")
    if missing := sorted(loaded.__abstractmethods__):
        raise AmodalError(f"{plugin.entry.value} lacks what a modality has: {', '.join(missing)}")
    if unset := [f.name for f in fields(loaded) if f.default is f.default_factory is MISSING]:
        raise AmodalError(f"fields of {plugin.entry.value} have no default: {', '.join(unset)}")
    loaded()


def name_of(modality: Modality) -> str:
    """The name of a modality: `name_of(Image())` is "image"."""
    return modality.kind


def of_columns(columns: Sequence[str]) -> Modality:
    """The modality that reads columns of single cells together, one row for each record."""
    row = next(m for m in every().values() if m.is_row)
    return build(row, {"columns": tuple(columns)})


def make(modality: str, **parameters: Any) -> Modality:
    """A modality from plain values: `make("image", size=64)`, `make(**config(image))`.

    Args:
        modality: its name.
        parameters: its fields.

    Raises:
        AmodalError: an unknown name, or a wrong type.
    """
    return build(kind(modality), parameters)


def config(modality: Modality) -> dict[str, Any]:
    """A modality as plain values for TOML and JSON, its name under "modality"."""
    values = {f.name: _plain(getattr(modality, f.name)) for f in fields(cast(Any, modality))}
    return {"modality": name_of(modality), **values}


def restore(stored: Mapping[str, Any]) -> Modality:
    """A modality as a run stored it, by `config`.

    Raises:
        AmodalError: an unknown name, or a wrong type.
    """
    parameters = {name: value for name, value in stored.items() if name != "modality"}
    return kind(stored["modality"]).restore(parameters)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


register_codec(
    lambda value: isinstance(value, Modality),
    config,
    lambda data: isinstance(data.get("modality"), str),
    restore,
)
