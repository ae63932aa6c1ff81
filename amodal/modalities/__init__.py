"""One file per kind of data: decode, augment, tokenise, what a masked model predicts, how it is shown.

The path is the name: `amodal/modalities/image.py` holds `Image`. Adding a sensor is adding a file here and nothing
else.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from amodal.core import registry as find
from amodal.core.part import register_codec
from amodal.modalities.shared.base import VIEWS, BadValue, Modality, Raw, build
from amodal.modalities.shared.guess import guess

__all__ = ["VIEWS", "BadValue", "Modality", "Raw", "config", "guess", "kind", "make", "name_of", "names"]


def names() -> list[str]:
    """The kinds of data there are."""
    return list(find.pages("modalities"))


def kind(name: str) -> type[Modality]:
    """The class of a modality: `kind("image").infer(samples)`. Raises AmodalError with the nearest names."""
    module = find.load("modalities", name, "modality")
    return getattr(module, module.__name__.rpartition(".")[2].capitalize())


def name_of(modality: Modality) -> str:
    """What kind of data this is: `name_of(Image())` is "image"."""
    return type(modality).__name__.lower()


def make(modality: str, **parameters: Any) -> Modality:
    """A modality from plain values: `make("image", size=64)`, `make(**config(image))`. Raises AmodalError for unknown
    names."""
    return build(kind(modality), parameters)


def config(modality: Modality) -> dict[str, Any]:
    """Everything about a modality as plain values for TOML and JSON, its kind under "modality"."""
    values = {f.name: _plain(getattr(modality, f.name)) for f in fields(modality)}
    return {"modality": name_of(modality), **values}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


register_codec(
    lambda value: is_dataclass(value) and hasattr(value, "tokenizer"),
    config,
    lambda data: isinstance(data.get("modality"), str),
    lambda data: make(**data),
)
