"""Specs of backbones that lie in packages, and data that is read as a backbone reads it."""

import numpy as np
import pytest

from amodal import data
from amodal.core import AmodalError
from amodal.modalities.audio import Audio
from amodal.modalities.text import Text
from amodal.train import packaged


def test_other_specs_stay_as_they_are_and_an_unknown_package_offers_the_nearest():
    assert packaged.specs({"image": "timm:resnet18@x"}) == {"image": "timm:resnet18@x"}
    with pytest.raises(AmodalError, match="minilm"):
        packaged.specs({"text": "package:minilmm"})


def test_text_is_read_as_the_backbones_ids_and_sound_at_its_rate(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "cat": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    fields = {"words": Text(max_length=8, patch=2), "sound": Audio(rate=8000)}
    columns = {"words": ["a cat", "a dog"], "sound": [np.zeros(8000, np.float32)] * 2}
    dataset = data.open(columns, fields=fields)
    read = packaged.in_their_words(dataset, {"words": f"transformers:{tmp_path}", "sound": "voice:resemblyzer@x"})
    assert read.value(0, "words").tolist() == [0, 1] and read.fields["words"].patch == 1
    assert read.fields["sound"].rate == 16000
    assert packaged.in_their_words(dataset, {"sound": "timm:x"}) is dataset
