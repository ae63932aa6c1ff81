"""Runs on another machine: tokenizers of pretrained text models beside the weights, and frozen
encoders that come in packages and are left out."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

import amodal
from amodal import modalities
from amodal.cli import main
from amodal.core import AmodalError
from amodal.data import packaged_models
from amodal.export import export
from amodal.model import Model
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder
from tests.export.test_weights import CARD
from tests.tiny_roberta import roberta_folder

pytest.importorskip("transformers")
pytest.importorskip("huggingface_hub")
TEXTS = ["a green pear", "the red boat on the sea", "apple"]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The cache of a machine that fetches a tiny RoBERTa as the package `tiny`; and how often."""
    fetched = []

    def tiny(folder):
        if not folder.exists():
            folder.mkdir(parents=True)
            roberta_folder(folder)
            fetched.append(folder)
        return f"transformers:{folder}"

    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "here"))
    monkeypatch.setattr(packaged_models, "PACKAGED", {"tiny": tiny})
    # what a module has imported by name is the dict itself
    monkeypatch.setattr("amodal.methods.shared.packaged_weights.PACKAGED", {"tiny": tiny})
    return fetched


def trained(spec: str | None = None, **more) -> Model:
    """A model with a head on the tiny RoBERTa, of the package or of another spec."""
    spec = spec or packaged_models.resolve("package:tiny")
    folder = spec.partition(":")[2]
    words = modalities.make("text", vocabulary=folder, max_length=12)
    torch.manual_seed(0)
    fields = {"words": words}
    made = Encoder(fields, size="nano", backbones={"words": backbone(spec, words, 64, **more)})
    made.align(16)
    card = CARD | {"schedule": {"steps": 1, "lr": 0.1, "train_backbones": False}}
    return Model(made, {"encoder": made.spec} | card)


def elsewhere(monkeypatch, tmp_path):
    """From now on, a machine where the folders of the first are not."""
    shutil.rmtree(tmp_path / "here")
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "there"))


def test_a_run_is_read_where_the_folder_of_its_tokenizer_is_gone(tmp_path):
    (tmp_path / "model").mkdir()
    model = trained(f"transformers:{roberta_folder(tmp_path / 'model')[0]}")
    wanted = model.encode(TEXTS)
    folder = model.save(tmp_path / "out")
    shutil.rmtree(tmp_path / "model")
    assert (amodal.load(folder).encode(TEXTS) == wanted).all()
    second = amodal.load(amodal.load(folder).save(tmp_path / "again"))
    shutil.rmtree(folder)
    assert (amodal.load(second.path).encode(TEXTS) == wanted).all()


def test_packaged_weights_are_left_out_and_fetched(tmp_path, monkeypatch, cached):
    model = trained()
    wanted = model.encode(TEXTS)
    whole = model.save(tmp_path / "whole") / "model.safetensors"
    small = model.save_pretrained(tmp_path / "small", packaged=False)
    names = safe_open(small / "model.safetensors", "pt").keys()
    assert names and not any(".body." in name for name in names)
    assert (small / "model.safetensors").stat().st_size < whole.stat().st_size / 2
    assert str(tmp_path) not in (small / "spec.json").read_text(encoding="utf-8")
    assert "package:tiny" in (small / "README.md").read_text(encoding="utf-8")
    for form in ("safetensors", "huggingface"):
        verb = tmp_path / form
        run = str(model.save(tmp_path / "run"))
        main(["export", run, "--to", form, "--out", str(verb), "--no-packaged"])
        same = (verb / "model.safetensors").stat().st_size
        assert same == (small / "model.safetensors").stat().st_size
    with pytest.raises(AmodalError, match="a graph holds all of its weights"):
        export(model, "onnx", tmp_path / "graph", packaged=False)
    elsewhere(monkeypatch, tmp_path)
    loaded = amodal.load(small)
    assert len(cached) == 2 and (loaded.encode(TEXTS) == wanted).all()
    assert (loaded.untrained().encode(TEXTS) != wanted).any(), "its head is another"
    whole = loaded.save(tmp_path / "both")
    assert (amodal.load(whole).encode(TEXTS) == wanted).all() and len(cached) == 2


@pytest.mark.parametrize("packaged", [True, False])
def test_what_is_on_the_hub_is_read_elsewhere(hub, tmp_path, cached, monkeypatch, packaged):
    model = trained()
    wanted = model.encode(TEXTS)
    model.push_to_hub("someone/words", packaged=packaged)
    assert ("tokenizer-words.json" in hub.files("someone/words")) == packaged
    elsewhere(monkeypatch, tmp_path)
    loaded = Model.from_pretrained("someone/words", device="cpu")
    assert (loaded.encode(TEXTS) == wanted).all() and len(cached) == 2 - packaged


def test_a_model_without_packaged_weights_says_so(tmp_path, cached):
    (tmp_path / "model").mkdir()
    other = trained(f"transformers:{roberta_folder(tmp_path / 'model')[0]}")
    with pytest.raises(AmodalError, match="has none .*package:NAME, of tiny"):
        other.save(tmp_path / "out", packaged=False)
    learnt = trained(packaged_models.resolve("package:tiny"), frozen=False)
    with pytest.raises(AmodalError, match="has none"):
        learnt.save(tmp_path / "out", packaged=False)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "'packaged' is damaged"),
        ({"tokenizers.words": {"name": "tiny"}}, "'packaged' is damaged"),
        ({"tokenizers.words": {"name": "tinny", "sha256": ""}}, "tinny.*Did you mean tiny"),
        ({"tokenizers.words": {"name": "tiny", "sha256": "0"}}, "not those that .* trained"),
        ({"pools": {"name": "tiny", "sha256": "0"}}, "no backbone of this name"),
    ],
)
def test_a_damaged_entry_is_refused(tmp_path, cached, entry, message):
    folder = trained().save(tmp_path / "out", packaged=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"packaged": entry}), encoding="utf-8")
    with pytest.raises(AmodalError, match=message):
        amodal.load(folder)
