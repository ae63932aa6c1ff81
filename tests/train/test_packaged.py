"""Specs of backbones that lie in packages, and data that is read as a backbone reads it."""

import numpy as np
import pytest
import torch

from amodal import data
from amodal.core import AmodalError
from amodal.data import packaged_models
from amodal.modalities.audio import Audio
from amodal.modalities.text import Text
from amodal.train import packaged


def test_other_specs_stay_as_they_are_and_an_unknown_package_offers_the_nearest():
    assert packaged.resolve_specs({"image": "timm:resnet18@x"}) == {"image": "timm:resnet18@x"}
    with pytest.raises(AmodalError, match="minilm"):
        packaged.resolve_specs({"text": "package:minilmm"})


def test_words_behind_a_name_are_of_transformers_alone(monkeypatch):
    made = {"words": lambda folder: "transformers:DIR", "voices": lambda folder: "voice:x@FILE"}
    monkeypatch.setattr(packaged_models, "PACKAGED", made)
    specs = {"a": "package:words", "b": "package:words@layer3", "c": "package:voices"}
    assert packaged.resolve_specs(specs) == {
        "a": "transformers:DIR",
        "b": "transformers:DIR@layer3",
        "c": "voice:x@FILE",
    }
    with pytest.raises(AmodalError, match="voice has no @layer3: leave it out of package:voices"):
        packaged.resolve_specs({"a": "package:voices@layer3"})
    with pytest.raises(AmodalError, match="packaged encoder"):
        packaged.resolve_specs({"a": "package:word@layer3"})


def test_text_is_read_as_the_backbones_ids_and_sound_at_its_rate(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "cat": 1, "?": 2}, unk_token="?")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    fields = {"words": Text(max_length=8, patch=2), "sound": Audio(rate=8000)}
    columns = {"words": ["a cat", "a dog"], "sound": [np.zeros(8000, np.float32)] * 2}
    dataset = data.open(columns, fields=fields)
    read = packaged.match_inputs(
        dataset, {"words": f"transformers:{tmp_path}", "sound": "voice:resemblyzer@x"}
    )
    assert read.value(0, "words").tolist() == [0, 1] and read.fields["words"].patch == 1
    assert read.fields["sound"].rate == 16000
    assert packaged.match_inputs(dataset, {"sound": "timm:x"}) is dataset


def test_sentences_are_means_of_tokens_whatever_stands_beside_them(tmp_path):
    tokenizers, transformers = (
        pytest.importorskip("tokenizers"),
        pytest.importorskip("transformers"),
    )
    vocabulary = {
        w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat"])
    }
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    around = tokenizers.processors.TemplateProcessing
    made.post_processor = around(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    shape = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(vocab_size=7, max_position_embeddings=20, **shape)
    ).eval()
    model.save_pretrained(tmp_path)
    texts = ["a cat sat", "cat", "a a cat cat sat sat a", "sat " * 40]
    found = packaged.sentence_encoder(f"transformers:{tmp_path}", batch_size=3)(texts)
    for text, vector in zip(texts[:3], found):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([made.encode(text).ids])).last_hidden_state[
                0, 1:-1
            ]
        want = torch.nn.functional.normalize(states.mean(0), dim=0)
        np.testing.assert_allclose(vector, want.numpy(), rtol=1e-4, atol=1e-5)
    first = packaged.sentence_encoder(f"transformers:{tmp_path}@layer1")(texts[:1])
    assert first.shape == (1, 24) and not np.allclose(first, found[:1])
    with pytest.raises(AmodalError, match="cannot read ' '"):
        packaged.sentence_encoder(f"transformers:{tmp_path}")([" "])
    with pytest.raises(AmodalError, match="reads no text"):
        packaged.sentence_encoder("timm:resnet18@x")
