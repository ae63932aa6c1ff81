"""A wrong argument of a public function is one sentence, never Python's own error of the line that
first fell over it."""

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError


@pytest.fixture(scope="module")
def data():
    return amodal.open("digits").select(["pix", "fou"]).subset(range(0, 2000, 20))


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    made = amodal.Model.of(amodal.Encoder(data.fields, size="nano"), data)
    folder = made.save(tmp_path_factory.mktemp("model") / "run")
    return amodal.load(folder, device="cpu")


class Unmade(torch.nn.Module):
    """Whose author forgot super().__init__()."""

    width = 3

    def __init__(self):
        pass

    def forward(self, values):
        return values[:, :3]


OPEN = {
    "an open file": (lambda data: amodal.as_dataset(open(__file__, encoding="utf-8")), "its path"),
    "no name": (lambda data: amodal.as_dataset(""), "it is ''"),
    "a long name": (lambda data: amodal.as_dataset("x" * 300), "data must be the path"),
    "a limit of a set": (lambda data: amodal.as_dataset("digits", limit=10), "subset"),
    "init of None": (lambda data: amodal.init(None), "the data must be a path"),
    "init of a dict": (lambda data: amodal.init({"a": [1]}), "the data must be a path"),
    "no fields": (lambda data: data.select(None), "fields must be a list"),
    "fields as a text": (lambda data: data.select("pix"), "fields must be a list"),
}


@pytest.mark.parametrize("call, words", OPEN.values(), ids=OPEN)
def test_what_is_opened(call, words, data, recwarn):
    with pytest.raises(AmodalError, match=words):
        call(data)


MODEL = {
    "saved nowhere": (lambda m, d: m.save(""), "path must be a folder"),
    "no device": (lambda m, d: amodal.load(m.path, device=None), "no device is called None"),
    "another device": (lambda m, d: amodal.load(m.path, device="mps:9"), "torch cannot use it"),
    "from the Hub": (lambda m, d: amodal.Model.from_pretrained(None), "OWNER/NAME"),
    "progress of embed": (lambda m, d: m.embed(d, progress=5), "progress must be True"),
    "progress of index": (lambda m, d: m.index(d, progress="x"), "progress must be True"),
    "an index by number": (lambda m, d: m.index(d, 5), "the index must be a folder"),
    "an index without a name": (lambda m, d: m.index(d, ""), "the index must be a folder"),
    "a bare query": (lambda m, d: m.search("a red boat"), "search\\(text="),
    "fields of no name": (lambda m, d: m.search(pix=d[0]["pix"], fields=[]), "None for all"),
    "one model": (lambda m, d: amodal.Ensemble(m), "the models must be a list"),
    "paths": (lambda m, d: amodal.Ensemble(["a", "b"]), "the models must be a list"),
    "a weight": (lambda m, d: amodal.Ensemble([m, m], 5), "weights must be a list of numbers"),
    "NaN": (lambda m, d: amodal.Ensemble([m, m], [1, float("nan")]), "weights must be a list"),
    "k": (lambda m, d: amodal.Ensemble([m, m]).search(pix=d[0]["pix"], k="x"), "k must be a whole"),
    "a rule": (lambda m, d: m.curate(d, by=5), "by must be the name of a rule"),
}


@pytest.mark.parametrize("call, words", MODEL.values(), ids=MODEL)
def test_a_model(call, words, model, data):
    with pytest.raises(AmodalError, match=words):
        call(model, data)


def test_a_field_of_another_kind_is_said_with_what_to_write(model):
    with pytest.raises(AmodalError, match=r"fields=\{'pix': 'table'\}\); if it is not, rename"):
        model.encode({"pix": ["some words", "and others", "of a text"]})


def test_progress_is_a_flag_everywhere(model, data, tmp_path, capsys):
    few = data.subset(range(8))
    assert len(model.embed(few, progress=False).keys) == 8
    assert len(model.index(few, tmp_path / "index", progress=True)) == 8
    assert "index" in capsys.readouterr().err
    counts = []
    model.embed(few, progress=counts.append)
    assert sum(counts) == 8


TRAINING = {
    "a temperature of 0": (dict(options={"temperature": 0}), "clip cannot be made with temp"),
    "one below 0": (dict(options={"temperature": -1}), "clip cannot be made with temperature = -1"),
    "an unmade network": (dict(backbones={"pix": Unmade()}), "super\\(\\).__init__"),
}


@pytest.mark.parametrize("settings, words", TRAINING.values(), ids=TRAINING)
def test_training(settings, words, data, tmp_path):
    with pytest.raises(AmodalError, match=words):
        amodal.pretrain(
            "clip", data, tmp_path / "r", size="nano", steps=1, progress=False, **settings
        )


STUDIES = {
    "align without backbones": (lambda d, o: amodal.align(d, o, None), "backbones must be"),
    "align to nowhere": (lambda d, o: amodal.align(d, None, {"pix": "x"}), "out must be the run"),
    "its fields": (
        lambda d, o: amodal.align(d, o, {"pix": "x"}, fields=5),
        "fields must be a list",
    ),
    "its options": (lambda d, o: amodal.align(d, o, {"pix": "x"}, options=5), "options must be"),
    "a list of labels": (
        lambda d, o: amodal.compare(d, ["digit"], out=o),
        "label must be the name",
    ),
    "compare to nowhere": (lambda d, o: amodal.compare(d, "digit", out=None), "out must be the"),
    "methods": (lambda d, o: amodal.compare(d, "digit", out=o, methods=5), "methods must be auto"),
    "encoders": (lambda d, o: amodal.compare(d, "digit", out=o, encoders="x"), "encoders must be"),
    "backbones": (lambda d, o: amodal.compare(d, "digit", out=o, backbones=5), "backbones must be"),
    "seeds": (lambda d, o: amodal.compare(d, "digit", out=o, seeds=[1]), "seeds must be a whole"),
    "no steps": (
        lambda d, o: amodal.compare(d, "digit", out=o, steps=0, budget="1s", methods=["clip"]),
        "steps must be a whole",
    ),
    "storage": (lambda d, o: amodal.compare(d, "digit", out=o, storage=5), "storage must be the"),
    "frozen": (lambda d, o: amodal.compare(d, "digit", out=o, frozen=5), "frozen must be auto"),
}


@pytest.mark.parametrize("call, words", STUDIES.values(), ids=STUDIES)
def test_studies(call, words, data, tmp_path):
    with pytest.raises(AmodalError, match=words):
        call(data, tmp_path / "study")


@pytest.mark.parametrize("name, value", [("fields", 5), ("options", 5), ("out", 5)])
def test_an_embedder(name, value, tmp_path):
    made = amodal.Embedder("simclr", size="nano", steps=1, **{name: value})
    with pytest.raises(AmodalError, match=f"{name} must be"):
        made.fit(np.random.default_rng(0).normal(size=(40, 4)))


def test_an_embedder_says_what_it_could_not_read(model):
    fitted = amodal.Embedder.load(model.path, device="cpu")
    with pytest.raises(AmodalError, match="column 'pix' must be a list"):
        fitted.transform({"pix": 5})
    with pytest.warns(UserWarning, match="have no readable value(.|\n)*240"):
        fitted.transform({"pix": np.zeros((2, 7))})
    with pytest.raises(AmodalError, match="call fit first"):
        amodal.Embedder().get_feature_names_out()
