"""Specs of backbones that lie in packages, and data that is read as a backbone reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from amodal.core import AmodalError
from amodal.core.references import load_reference
from amodal.data import Dataset
from amodal.data.fetch import cache
from amodal.data.packaged_models import EFFICIENTNET as EFFICIENTNET
from amodal.data.packaged_models import resolve
from amodal.modalities import BadValue, Modality
from amodal.modalities.text import Text
from amodal.nn.backbones.hf_sound import hears, is_sound
from amodal.nn.backbones.libraries import input_size, text_input
from amodal.nn.backbones.model_sources import source_of
from amodal.nn.backbones.module import made_module
from amodal.nn.backbones.pretrained import is_own_code
from amodal.nn.backbones.voice import RATE

BackboneSpec = str | nn.Module
"""The spec of a backbone, or a module of the user's own."""


def resolve_specs(backbones: Mapping[str, BackboneSpec]) -> dict[str, BackboneSpec]:
    """Resolve every `package:NAME`, and every reference to code, of a mapping field -> spec.

    Raises:
        AmodalError: For an unknown name, code that is not there, and if the download fails.
    """
    resolved = dict(backbones)
    for field, spec in backbones.items():
        if isinstance(spec, str):
            resolved[field] = _loaded(spec) if is_own_code(spec) else resolve(spec)
    return resolved


def _loaded(spec: str) -> BackboneSpec:
    module: nn.Module = load_reference(spec)  # or what makes one, after the seed is set
    return module if callable(module) else made_module(module)


def sentence_encoder(
    spec: str = "package:minilm", *, batch_size: int = 32
) -> Callable[[Sequence[str]], npt.NDArray[np.float32]]:
    """A pretrained sentence encoder.

    The vector of a text is the mean over its tokens, without special tokens. Longer texts are
    truncated.

    Args:
        spec: `package:minilm`, or `transformers:DIR` of another model.

    Returns:
        A function: N texts -> (N, D) float32 of unit length. It raises AmodalError for an empty
        text.

    Raises:
        AmodalError: For an unknown model, and for one that does not read text.
    """
    from amodal.nn.backbones.transformers import build

    library, _, rest = resolve(spec).partition(":")
    if library != "transformers":
        raise AmodalError(
            f"{spec} reads no text: give package:minilm, or transformers:DIR of a sentence encoder"
        )
    folder = source_of(rest).directory
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings", 512)
    # room for the special tokens around a text
    modality = Text(max_length=min(positions, 512) - 8, vocabulary=folder)
    body = build(rest, modality, True)[0].eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        ids = [_decoded(modality, text) for text in texts]
        vectors = np.zeros((len(ids), body.width), np.float32)
        # similar lengths together, so that there is little padding
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            tokens, lengths, _ = body(modality.collate([ids[i] for i in part]))
            means = torch.stack([text.mean(0) for text in tokens.split(lengths.tolist())])
            vectors[part] = torch.nn.functional.normalize(means, dim=1).float().numpy()
        return vectors

    return embed


def _decoded(modality: Text, text: str) -> npt.NDArray[Any]:
    try:
        return modality.decode(text)
    except BadValue as error:
        raise AmodalError(f"cannot read {text[:60]!r} as a sentence: {error}") from None


def match_inputs(dataset: Dataset, backbones: Mapping[str, BackboneSpec]) -> Dataset:
    """The dataset, decoded as its backbones read it.

    Text of a pretrained backbone is read as ids of its tokenizer, unless the field has a
    vocabulary. Sound is resampled to the rate of its model. Pictures are decoded at the side
    that their model takes, from the files themselves.
    """
    changed: dict[str, Modality] = {}
    for field, spec in backbones.items():
        library, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
        if field not in dataset.fields:
            continue
        # a modality of a plug-in may have the same attributes as Text or Audio
        modality: Any = dataset.fields[field]
        if modality.takes_prompts and not modality.vocabulary:
            folder, room = text_input(spec, modality, cache() / "models")
            if folder:
                length = min(modality.max_length, room or modality.max_length)
                changed[field] = replace(modality, vocabulary=folder, patch=1, max_length=length)
        if library == "voice" and library in modality.backbones and modality.rate != RATE:
            changed[field] = replace(modality, rate=RATE)
        if library == "transformers" and is_sound(modality) and library in modality.backbones:
            changed[field] = _as_heard(modality, *hears(rest.partition("#{")[0]))
        side = input_size(spec, modality)
        if side and modality.size != side:
            patch = modality.patch if side % max(modality.patch, 1) == 0 else 0
            changed[field] = replace(modality, size=side, patch=patch)
    return dataset.with_fields(dataset.fields | changed) if changed else dataset


def _as_heard(modality: Any, rate: int, longest: float) -> Modality:
    """A field of sound at the rate of a model, and not longer than it hears."""
    seconds = min(modality.max_seconds or longest, longest) if longest else modality.max_seconds
    # moments are of spectrograms at the rate of before, and no backbone reads them
    heard: Modality = replace(modality, rate=rate, max_seconds=seconds)
    return heard


def match_trunk(dataset: Dataset, trunk: str) -> Dataset:
    """The dataset, decoded as a pretrained trunk reads it.

    Texts keep their length: the positions of the model are stretched.
    """
    specs = {f: trunk for f, m in dataset.fields.items() if trunk.partition(":")[0] in m.backbones}
    changed: dict[str, Modality] = {}
    for field, modality in match_inputs(dataset, specs).fields.items():
        before: Any = dataset.fields[field]
        is_text = modality.takes_prompts and hasattr(before, "max_length")
        lengths = {"max_length": before.max_length} if is_text else {}
        changed[field] = replace(cast(Any, modality), **lengths)
    return dataset.with_fields(changed)


def notes_of(before: Dataset, after: Dataset, backbones: Mapping[str, BackboneSpec]) -> list[str]:
    """Lines about the sizes, lengths and rates that `match_inputs` changed."""
    lines = []
    for field, spec in backbones.items():
        old, new = (getattr(d.fields.get(field), "size", 0) for d in (before, after))
        if old != new:
            name = str(spec).partition("@")[0].partition("#{")[0]
            lines.append(f"{field}: read at {new} pixels a side, as {name} takes it, not at {old}")
        old, new = (getattr(d.fields.get(field), "max_length", 0) for d in (before, after))
        if old != new:
            lines.append(f"{field}: the first {new} ids of a text are read, all that {spec} takes")
        old, new = (getattr(d.fields.get(field), "max_seconds", 0) for d in (before, after))
        if old != new:
            lines.append(f"{field}: the first {new:g} s of a clip are heard, all that {spec} takes")
    return lines
