"""Answers of a language model that runs here, of a tiny one with random weights."""

import json

import pytest
import torch

from amodal.cli import main
from amodal.core import AmodalError
from amodal.curate.cs_papersum import PromptedSummariser
from amodal.data.gguf import GgufFile
from amodal.data.packaged_llama import write_llama
from amodal.inference.language_model import LanguageModel, is_language_model
from tests.data.llama_files import llama_file, tiny

transformers = pytest.importorskip("transformers")
CHAT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    write_llama(GgufFile(llama_file(tiny(transformers))), out)
    return out


@torch.no_grad()
@pytest.mark.parametrize("template", [True, False])
def test_the_likeliest_tokens_follow_the_prompt_as_a_turn_of_a_chat(folder, tmp_path, template):
    spec = folder
    if not template:
        spec = tmp_path
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        del settings["chat_template"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = start = tokenizer(CHAT if template else "hello", return_tensors="pt").input_ids
    model = tiny(transformers)
    for _ in range(9):
        best = model(ids).logits[0, -1].argmax()
        if best == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best[None, None]], 1)
    want = tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True).strip()
    ask = LanguageModel(f"transformers:{spec}", max_tokens=9)
    assert ask("hello") == want == ask("hello") and want


def test_a_prompt_that_is_too_long_is_refused(folder):
    ask = LanguageModel(f"transformers:{folder}", max_tokens=30)
    with pytest.raises(AmodalError, match="prompt has .* tokens and the answer may have 30; .* 64"):
        ask("hello " * 40)
    with pytest.raises(AmodalError, match="at least one token, max_tokens is 0"):
        LanguageModel(f"transformers:{folder}", max_tokens=0)


def test_what_is_no_language_model_is_refused(tmp_path):
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=7, hidden_size=8, **shape)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(AmodalError, match="holds BertModel, not a causal language model"):
        LanguageModel(f"transformers:{tmp_path}")
    with pytest.raises(AmodalError, match="timm:resnet18@x is no language model: expected"):
        LanguageModel("timm:resnet18@x")
    with pytest.raises(AmodalError, match="smollm2"):
        LanguageModel("package:smollm")
    with pytest.raises(AmodalError, match="no directory"):
        LanguageModel(f"transformers:{tmp_path / 'gone'}")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(AmodalError, match="cannot read the language model in"):
        LanguageModel(f"transformers:{tmp_path}")


def test_a_model_without_some_of_its_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(AmodalError, match="lacks weights: model.norm.weight"):
        LanguageModel(f"transformers:{tmp_path}")


def test_papers_takes_a_model_by_its_name(folder, tmp_path, monkeypatch):
    assert is_language_model("package:smollm2") and not is_language_model("ask.py:answer")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "papers.jsonl").write_text(
        json.dumps({"title": "On graphs", "abstract": "We propose graphs."}) + "\n",
        encoding="utf-8",
    )
    spec, asked = f"transformers:{folder}", []

    def answer(self, prompt):
        asked.append((self.about, prompt))
        return "Key takeaways: They grow.\nKeywords: graphs"

    with monkeypatch.context() as changed, pytest.raises(SystemExit):
        changed.setattr(LanguageModel, "__call__", lambda self, prompt: "no labels")
        main(["papers", "papers.jsonl", "--out", "made", "--ask", spec])
    monkeypatch.setattr(LanguageModel, "__call__", answer)
    with pytest.raises(SystemExit):  # of one paper there is no report
        main(["papers", "papers.jsonl", "--out", "made", "--ask", spec])
    [line] = (tmp_path / "made/summaries.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["summary"]["key_takeaways"] == "They grow."
    assert json.loads(line)["by"] == f"asked {spec}"
    assert [about for about, _ in asked] == [spec] and "On graphs" in asked[0][1]


def test_what_asks_is_named_by_its_about_or_by_its_name():
    class Asked:
        about = "a model"

    assert PromptedSummariser(Asked()).about == "asked a model"
    assert PromptedSummariser(str.upper).about == "asked str.upper"
