"""Whisper out of CTranslate2's format, written here by its rules from a tiny model."""

import struct

import pytest
import torch

from amodal.data.packaged_whisper import config_of, state_of, variables

transformers = pytest.importorskip("transformers")


def tiny():
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        vocab_size=40,
        d_model=64,
        num_mel_bins=8,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=10,
        max_target_positions=12,
        **special,
    )
    return transformers.WhisperForConditionalGeneration(config).eval()


def in_its_names(model):
    """The arrays of CTranslate2: one map for queries, keys and values, whose keys have no bias."""
    state, arrays = dict(model.model.state_dict()), {}

    def put(target, kind, *sources):
        parts = [
            state.get(f"{s}.{kind}", torch.zeros(state[f"{s}.weight"].shape[0])) for s in sources
        ]
        arrays[f"{target}/{kind}"] = torch.cat(parts)

    def linear(target, *sources):
        for kind in ("weight", "bias"):
            put(target, kind, *sources)

    def norm(target, source):
        arrays[f"{target}/gamma"] = state[f"{source}.weight"]
        arrays[f"{target}/beta"] = state[f"{source}.bias"]

    for i in "12":
        linear(f"encoder/conv{i}", f"encoder.conv{i}")
    for side, depth in (("encoder", 2), ("decoder", 3)):
        arrays[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(depth):
            there, here = f"{side}/layer_{i}", f"{side}.layers.{i}"
            q, k, v, out = (f"{here}.self_attn.{n}_proj" for n in ("q", "k", "v", "out"))
            linear(f"{there}/self_attention/linear_0", q, k, v)
            linear(f"{there}/self_attention/linear_1", out)
            norm(f"{there}/self_attention/layer_norm", f"{here}.self_attn_layer_norm")
            if side == "decoder":
                q, k, v, out = (f"{here}.encoder_attn.{n}_proj" for n in ("q", "k", "v", "out"))
                linear(f"{there}/attention/linear_0", q)
                linear(f"{there}/attention/linear_1", k, v)
                linear(f"{there}/attention/linear_2", out)
                norm(f"{there}/attention/layer_norm", f"{here}.encoder_attn_layer_norm")
            for j, name in enumerate(("fc1", "fc2")):
                linear(f"{there}/ffn/linear_{j}", f"{here}.{name}")
            norm(f"{there}/ffn/layer_norm", f"{here}.final_layer_norm")
    arrays["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    return arrays


def written(arrays):
    def text(name):
        raw = name.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, tensor in arrays.items():
        array = tensor.numpy()
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        number = {"float32": 0, "float16": 4}[str(array.dtype)]
        parts += [text(name), shape, struct.pack("<BI", number, array.nbytes), array.tobytes()]
    return b"".join([*parts, struct.pack("<I", 0)])


@torch.no_grad()
def test_a_model_comes_back_as_it_was():
    model = tiny()
    content = written(in_its_names(model))
    weights = {name: torch.from_numpy(array.copy()) for name, array in variables(content)}
    config = config_of(weights)
    assert (config.d_model, config.encoder_layers, config.decoder_layers) == (64, 2, 3)
    assert (config.num_mel_bins, config.vocab_size, config.encoder_attention_heads) == (8, 40, 1)
    state, want = state_of(weights, config), model.state_dict()
    assert state.keys() == want.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, want[name]), name


def test_half_precision_is_read_as_it_is():
    array = torch.arange(6, dtype=torch.float16).view(2, 3)
    [(name, read)] = variables(written({"a/b": array}))
    assert name == "a/b" and read.dtype == "float16" and read.tolist() == array.tolist()
