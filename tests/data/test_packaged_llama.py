"""Language models out of GGUF, as folders of transformers, from a tiny model written here by the
rules of the format; and the real one, where its package has been fetched."""

import json

import numpy as np
import pytest
import torch

from amodal.core import AmodalError
from amodal.data import packaged_models
from amodal.data.gguf import GgufFile
from amodal.data.packaged_llama import config_of, tokenizer_of, write_llama
from tests.data.gguf_files import written
from tests.data.llama_files import MERGES, TEMPLATE, llama_file, metadata, tensors, tiny, vocabulary

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model():
    return tiny(transformers)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_as_it_was(tmp_path, tied):
    model = tiny(transformers, tied=tied)
    write_llama(GgufFile(llama_file(model)), tmp_path / "made")
    read, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "made", local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    state, want = read.float().state_dict(), model.state_dict()
    assert state.keys() == want.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, want[name]), name
    ids = torch.arange(20)[None]
    torch.testing.assert_close(read.eval()(ids).logits, model(ids).logits)
    assert sorted(f.name for f in (tmp_path / "made").iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_the_tokenizer_has_the_ids_of_the_file_and_its_template(model, tmp_path):
    write_llama(GgufFile(llama_file(model)), tmp_path)
    made = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    words = vocabulary()
    assert made.convert_ids_to_tokens(list(range(len(words)))) == words
    assert made.tokenize("hello wo 12<|im_end|>") == [
        *("hello", "Ġw", "o", "Ġ", "1", "2", "<|im_end|>")
    ]
    assert made.decode(made("hello, wörld\n 12")["input_ids"]) == "hello, wörld\n 12"
    assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (1, 2, 2)
    chat = made.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["chat_template"] == TEMPLATE and settings["model_max_length"] == 64


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"general__architecture": "qwen2"}, "of the kind 'qwen2'; 'llama' is read"),
        ({"llama__rope__scaling__type": "yarn"}, "stretched by llama.rope.scaling.type"),
        ({"llama__block_count": 2**31 - 1}, "20 tensors cannot be of 2147483647 blocks"),
        ({"llama__block_count": 1}, "'blk.1.attn_k.weight' has the shape .*it has None"),
        ({"llama__block_count": 3}, r"'blk.2.attn_k.weight' has the shape None; .* \(16, 32\)"),
        ({"llama__feed_forward_length": 47}, r"ffn_down.weight' has the shape \(32, 48\)"),
        ({"llama__embedding_length": None}, "embedding_length = None; a positive int"),
        ({"llama__attention__head_count": 0}, "head_count = 0; a positive int"),
        ({"llama__attention__head_count": 5}, "32 channels have 5 heads"),
        ({"llama__rope__dimension_count": 4}, "positions turn 4 of 8 channels"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "epsilon = nan; a positive"),
        ({"tokenizer__ggml__tokens": ["a", "b"]}, r"token_embd.weight' has the shape \(264, 32\)"),
        ({"tokenizer__ggml__eos_token_id": 264}, "eos_token_id = 264, and there are 264 tokens"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, r"\('gpt2', 'llama-bpe'\); \('gpt2', 'smollm'\)"),
        ({"tokenizer__ggml__tokens": ["a"] * 264}, "264 tokens, 1 different ones"),
        ({"tokenizer__ggml__token_type": np.array([1])}, "264 different ones, and 1 types"),
        ({"tokenizer__ggml__merges": [*MERGES, "no such"]}, "tokenizer cannot be made"),
        ({"tokenizer__ggml__add_bos_token": True}, "puts special tokens around a text"),
    ],
)
def test_what_is_wrong_is_one_sentence(model, tmp_path, changed, message):
    file = GgufFile(llama_file(model, **changed))
    with pytest.raises(AmodalError, match=message):
        write_llama(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_weights_that_half_precision_cannot_hold_are_refused(model, tmp_path):
    of_file = tensors(model)
    of_file["output_norm.weight"] = ((32,), 0, np.full(32, 1e6, "<f4").tobytes())
    with pytest.raises(AmodalError, match="model.norm.weight has weights that half precision"):
        write_llama(GgufFile(written(metadata(), of_file)), tmp_path / "made")


@torch.no_grad()
def test_the_real_model_knows_what_it_was_taught():
    if not packaged_models.is_fetched("smollm2"):
        pytest.skip("package:smollm2 is not in the cache; a backbone of that name fetches it")
    folder = packaged_models.models() / "smollm2"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    model = model.float().eval()

    def surprise(text):
        ids = tokenizer(text, return_tensors="pt").input_ids
        logits = model(ids).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()

    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    sentence = "She opened the window because the room had become too warm."
    shuffled = "room because opened warm the She had too window the become."
    assert surprise(sentence) < 5 < 8 < surprise(shuffled)


def test_tokens_of_a_config_are_those_of_the_vocabulary(model):
    file = GgufFile(llama_file(model, tokenizer__ggml__padding_token_id=None))
    config = config_of(file)
    assert config["pad_token_id"] is None and config["vocab_size"] == len(vocabulary())
    assert tokenizer_of(file).get_vocab_size() == len(vocabulary())
