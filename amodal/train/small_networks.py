"""Networks from scratch that fields get on small data, where nothing else is asked for.

Which network suits a kind of field is measured on testbeds, as recipes are (`methods.recipes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from amodal import methods
from amodal.core import unknown
from amodal.data import Dataset
from amodal.methods.recipes import SMALL, small_encoders
from amodal.modalities import Modality, name_of
from amodal.nn.backbones.pretrained import OWN, TOKENS, Backbone
from amodal.nn.encoder import Encoder
from amodal.train import run_dir
from amodal.train.settings import SIZE, Settings

SpecT = TypeVar("SpecT")

SIZES = ("nano", "tiny", "small")
"""Of encoders on which the networks were measured; who asks for more gets a transformer of that
size."""


def with_small_networks(
    method: methods.MethodLike,
    settings: Settings,
    dataset: Dataset,
    records: int,
    source: Encoder | None = None,
    out: Path | None = None,
) -> tuple[Settings, dict[str, str]]:
    """The settings with the networks of fields for which nothing is set.

    Args:
        method: Its name decides, as networks are measured with methods.
        settings: A field with a backbone, or `TOKENS`, keeps that. None gets a network for the
            recipes "plain" and "paper", larger encoders, a class token, and cached features.
        dataset: With the fields to learn from.
        records: To learn from.
        source: Of the run that this one starts from, whose networks from scratch it goes on with.
        out: The run folder. A run that is resumed keeps what it has, whatever is chosen today.

    Returns:
        The settings, and the networks that were added: field -> spec.

    Raises:
        AmodalError: For `TOKENS` of a field that is not there.
    """
    set_already = settings.backbones or {}
    for field, spec in set_already.items():
        if spec == TOKENS and field not in dataset.fields:
            raise unknown("field", field, dataset.fields, f"The backbones have {field}={TOKENS}.")
    if settings.adapt is not None:
        return settings, {}
    config = None if out is None else out / "config.json"
    if settings.resume and config is not None and config.exists():
        suitable = _of_run(config)
    elif source is not None:
        # a config.toml has all of its recipe, is "plain", and names the networks that it has
        suitable = {} if settings.recipe_from == "plain" else _of_source(source)
    else:
        suitable = _suitable(method, settings, dataset, records)
    more = {
        field: suitable[field]
        for field, modality in dataset.fields.items()
        if field in suitable
        and field not in set_already
        and suitable[field].partition(":")[0] in (TOKENS, *modality.backbones)
    }
    if not more:
        return settings, {}
    settings = replace(settings, backbones={**set_already, **more})
    return settings, without_tokens(more)


def notes_of_added(
    added: Mapping[str, str], settings: Settings, source: Encoder | None
) -> list[str]:
    """What to say of networks that nobody asked for, when a run starts."""
    if settings.resume:
        return []
    why = (
        "did best on small data" if source is None else "is from the run that this one starts from"
    )
    return [
        f"{field}: {spec} {why}; --backbone {field}={TOKENS} for a transformer"
        for field, spec in added.items()
    ]


def _suitable(
    method: methods.MethodLike, settings: Settings, dataset: Dataset, records: int
) -> dict[str, str]:
    """Field -> network that suits small data."""
    asked = settings.recipe_from in ("plain", "paper") or settings.pool == "cls"
    asked = asked or bool(settings.cache_features)
    if records >= SMALL or asked or (settings.size or SIZE) not in SIZES:
        return {}
    return networks_of(methods.title(method), dataset.fields)


def networks_of(method: str, fields: Mapping[str, Modality]) -> dict[str, str]:
    """Field -> network with which a method did best on small data, of fields that have one.

    Args:
        method: Its name.
        fields: Name -> modality.
    """
    by_kind = small_encoders(method)
    return {
        field: by_kind[kind]
        for field, modality in fields.items()
        if (kind := name_of(modality)) in by_kind and modality.suits_small_networks
    }


def _of_run(file: Path) -> dict[str, str]:
    """Field -> network from scratch, or `TOKENS`, that a run was started with."""
    encoder = run_dir.read_config(file).get("encoder")
    arguments = encoder.get("args", {}) if isinstance(encoder, dict) else {}
    backbones = arguments.get("backbones") or {}
    has: dict[str, str] = dict.fromkeys(arguments.get("fields", {}), TOKENS)
    for field, backbone in backbones.items():
        has.pop(field, None)
        if _is_own(spec := str(backbone.get("args", {}).get("spec", ""))):
            has[field] = spec
    return has


def _is_own(spec: str) -> bool:
    return spec.partition(":")[0] in OWN


def _of_source(source: Encoder) -> dict[str, str]:
    """Field -> network from scratch of another run."""
    return {
        field: tokenizer.name
        for field, tokenizer in source.tokenizers.items()
        if isinstance(tokenizer, Backbone) and _is_own(tokenizer.name)
    }


def without_tokens(backbones: Mapping[str, SpecT]) -> dict[str, SpecT]:
    """Field -> backbone, of fields that have one."""
    return {field: spec for field, spec in backbones.items() if spec != TOKENS}
