"""A tiny language model of the Llama kind, and its GGUF file as llama.cpp would write it."""

import numpy as np
import torch

from tests.data.gguf_files import written

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def vocabulary():
    """Special tokens, the letters that stand for bytes, and what pairs are merged to."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return WORDS + letters + [merge.replace(" ", "") for merge in MERGES]


def tiny(transformers, *, tied=True):
    """A model with random weights that half precision holds, with 4 heads in 2 groups."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-4,
        rope_theta=500.0,
        tie_word_embeddings=tied,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight + 0.1 * torch.randn(weight.shape)).half())
    return model.eval()


def metadata(**changed):
    """Of the file; None leaves a key out, and `__` in a name stands for a dot."""
    tokens = vocabulary()
    kinds = np.array([3] * len(WORDS) + [1] * (len(tokens) - len(WORDS)))
    data = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-4,
        "llama.rope.freq_base": 500.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    } | {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in data.items() if value is not None}


def tensors(model):
    """Weights in half precision, whose pairs of channels that turn together are neighbours."""
    made = {}
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.startswith("model.layers."):
            _, _, block, rest = name.removesuffix(".weight").split(".", 3)
            if NAMES[rest] in ("attn_q", "attn_k"):
                order = np.concatenate(
                    [head + np.array([0, 4, 1, 5, 2, 6, 3, 7]) for head in range(0, len(array), 8)]
                )
                array = array[order]
            name = f"blk.{block}.{NAMES[rest]}"
        elif name == "lm_head.weight":
            if model.config.tie_word_embeddings:
                continue
            name = "output"
        else:
            name = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}[
                name
            ]
        made[f"{name}.weight"] = (array.shape, 1, array.astype("<f2").tobytes())
    return made


def llama_file(model, **changed):
    """Its GGUF file, with the metadata changed."""
    return written(metadata(**changed), tensors(model))
