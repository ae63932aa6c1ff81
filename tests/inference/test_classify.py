"""`amodal predict --classes`: the numbers it writes, and the runs that it refuses."""

import csv

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import amodal
from amodal.cli import main
from amodal.cli.classes import ClassOptions
from amodal.core import AmodalError
from amodal.data import open as open_data
from amodal.inference.class_predictions import classify
from amodal.inference.classify import Likeness

QUICK = dict(steps=2, size="nano", progress=False, logger=None)
NAMES = ["low", "high", "odd"]


def records(n=30):
    rng = np.random.default_rng(0)
    rows = [{"height": float(h), "kind": k} for h, k in zip(rng.normal(size=n), "ab" * n)]
    captions = [f"number {i} is {'high' if i % 2 else 'low'}" for i in range(n)]
    return open_data({"body": [*rows, None], "caption": [*captions, "alone"]})


@pytest.fixture(scope="module")
def data():
    return records()


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return amodal.pretrain("clip", data, tmp_path_factory.mktemp("run") / "clip", **QUICK)


@pytest.fixture
def spoken(model, data, monkeypatch):
    """The vector of each sentence, by its letters; what was asked."""
    asked = []

    def embed_values(encoder, field, values):
        asked.append((field, list(values)))
        made = [torch.Generator().manual_seed(sum(map(ord, v))) for v in values]
        return torch.stack([torch.randn(encoder.space_width, generator=g) for g in made])

    monkeypatch.setattr("amodal.inference.classify.embed_values", embed_values)
    return asked


def expected(model, data, sentences):
    """(31, C) cosines of bodies, an independent computation; the last record has none."""
    made = [torch.Generator().manual_seed(sum(map(ord, s))) for s in sentences]
    classes = torch.stack([torch.randn(model.encoder.space_width, generator=g) for g in made])
    return (
        normalize(model.embed(data).aligned["body"].values, dim=1) @ normalize(classes, dim=1).T
    ).numpy()


def test_a_table_has_the_class_the_next_one_and_the_margin(model, data, spoken):
    table = model.predict(data, classes=NAMES, templates="a {}")
    assert spoken == [("caption", ["a low", "a high", "a odd"])]
    cosine = expected(model, data, ["a low", "a high", "a odd"])
    order = np.argsort(-cosine, 1)
    assert table["class"].to_pylist() == [NAMES[c] for c in order[:, 0]] + [None]
    assert table["next"].to_pylist() == [NAMES[c] for c in order[:, 1]] + [None]
    ranked = np.take_along_axis(cosine, order, 1)
    assert np.allclose(table["similarity"].to_numpy()[:30], ranked[:, 0], atol=1e-5)
    assert np.allclose(table["margin"].to_numpy()[:30], ranked[:, 0] - ranked[:, 1], atol=1e-5)
    logits = cosine * float(model.method.logit_scale()().detach())
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(table["class=high"].to_numpy()[:30], p[:, 1], atol=1e-5)
    assert np.allclose(table["probability"].to_numpy()[:30], p.max(1), atol=1e-5)
    assert table["class=odd"].to_pylist()[30] is None and table["key"].to_pylist() == data.keys


def test_records_of_one_field_are_enough(model, data, spoken):
    alone = model.predict(data.select(["body"]), classes=NAMES)
    assert alone.equals(model.predict(data, classes=NAMES))
    with pytest.raises(AmodalError, match="value of body, which is what this run compares"):
        model.predict(open_data({"caption": ["a", "b"]}), classes=NAMES)
    texts = model.predict(open_data({"caption": ["a", "b"]}), classes=NAMES, field="caption")
    assert texts["class"].null_count == 0


def test_the_temperature_and_seen_classes(model, data, spoken):
    sharp = classify(model, data, NAMES, temperature=0.001)
    flat = classify(model, data, NAMES, temperature=100.0)
    assert sharp.probabilities[:30].max(1).min() > flat.probabilities[:30].max(1).max()
    lowered = classify(model, data, NAMES, seen=["HIGH"], stacking=3.0)
    assert np.allclose(lowered.scores[:30, 1], sharp.scores[:30, 1] - 3, atol=1e-5)
    assert np.allclose(lowered.scores[:30, [0, 2]], sharp.scores[:30, [0, 2]])
    assert "high" not in lowered.table()["class"].to_pylist()
    for options, message in (
        ({"stacking": 1.0}, "say which: seen"),
        ({"seen": ["hihg"]}, "Did you mean high"),
        ({"temperature": 0.0}, "a temperature is above 0"),
        ({"threshold": 0.1}, "add --multi-label"),
        ({"field": "boddy"}, "Did you mean body"),
        ({"by": "body"}, "cannot be described by body.*height,kind"),
    ):
        with pytest.raises(AmodalError, match=message):
            classify(model, data, NAMES, **options)


def test_any_number_of_classes(model, data, spoken, tmp_path):
    cosine = expected(model, data, NAMES)
    none = classify(model, data, NAMES, multi_label=True)
    assert "classes" not in none.table().column_names and "--threshold says" in none.sentence
    assert np.allclose(none.table()["class=low"].to_numpy()[:30], cosine[:, 0], atol=1e-5)
    some = classify(model, data, NAMES, multi_label=True, threshold=0.1).table()
    chosen = ["; ".join(n for n, c in zip(NAMES, row) if c >= 0.1) for row in cosine]
    assert some["classes"].to_pylist() == [*chosen, None] and len({*chosen}) > 2
    run = amodal.pretrain("siglip", data, tmp_path / "siglip", **QUICK)
    sure = classify(run, data, NAMES, multi_label=True)
    scale = run.method.logit_scale()
    p = 1 / (
        1
        + np.exp(
            -(expected(run, data, NAMES) * float(scale().detach()) + float(scale.bias.detach()))
        )
    )
    assert sure.threshold == 0.5 and np.allclose(sure.probabilities[:30], p, atol=1e-5)


def test_a_table_describes_classes_where_it_is_in_the_space(model, data):
    cells = {"tall": {"height": 2.0, "kind": "a"}, "short": {"height": -2.0}}
    found = classify(model, data, cells, by="body", field="caption")
    made = model.embed(open_data({"body": [*cells.values()], "caption": ["x", "y"]})).aligned[
        "body"
    ]
    own = model.embed(data).aligned["caption"].values
    cosine = normalize(own, dim=1) @ normalize(made.values, dim=1).T
    assert np.allclose(found.scores, cosine.numpy(), atol=1e-5)


def test_runs_that_compare_nothing_are_refused(data, tmp_path):
    for method, fields, message in (
        ("simclr", ["body", "caption"], "no common space of caption and other fields"),
        ("simclr", ["body"], "named in words, and this run reads none: it has body"),
        ("cpp", ["body", "caption"], "no common space"),
    ):
        options = {"options": {"width": 8, "hidden": 16}} if method == "cpp" else {}
        run = amodal.pretrain(
            method, data.select(fields), tmp_path / f"{method}{len(fields)}", **QUICK, **options
        )
        with pytest.raises(AmodalError, match=f"{message}.*amodal adapt RUN"):
            run.predict(data.select(fields), classes=NAMES)


def test_texts_alone_are_compared_with_names_in_their_own_space(data, tmp_path):
    lone = data.select(["caption"])
    run = amodal.pretrain("simcse", lone, tmp_path / "simcse", **QUICK)
    found = classify(run, lone, ["low", "high"])
    both = normalize(
        run.embed(open_data({"caption": ["low", "high"]})).aligned["caption"].values, dim=1
    )
    own = normalize(run.embed(lone).aligned["caption"].values, dim=1)
    assert np.allclose(found.scores, (own @ both.T).numpy(), atol=1e-5)


def test_duet_compares_predicted_attributes_with_those_of_classes(tmp_path):
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(8, 2)).astype(np.float32) for _ in range(24)]
    cells = [{"shape": "disc" if i % 2 else "ring", "size": float(i)} for i in range(24)]
    data = open_data({"signal": signals, "facts": cells})
    run = amodal.pretrain("duet", data, tmp_path / "duet", **QUICK)
    (tmp_path / "c.csv").write_text(
        "class,shape,size\nsmall disc,disc,1\nbig ring,ring,20\nany ring,ring,\n", encoding="utf-8"
    )
    found = classify(run, data.select(["signal"]), tmp_path / "c.csv")
    mean, std = run.fields["facts"].scale()
    place = {c: run.fields["facts"].categories["shape"].index(c) for c in ("disc", "ring")}
    attributes = np.zeros((3, 4))
    for row, (shape, size) in enumerate((("disc", 1), ("ring", 20), ("ring", None))):
        attributes[row, place[shape]] = 1
        attributes[row, 3] = 0 if size is None else (size - mean[1]) / std[1]
    batch = next(iter(amodal.data.Loader(run.read(data), range(24), batch=24, shuffle=False)))
    predicted = run.method.predict_attributes(batch)["signal"].values.numpy()
    assert np.allclose(found.scores, predicted @ attributes.T, atol=1e-4)
    assert found.likeness.scale == 1.0 and found.missing.sum() == 0
    with pytest.raises(AmodalError, match="'blob' cannot be described by facts.*class,shape,size"):
        run.predict(data, classes=["blob", "disc"])


def test_what_scores_mean():
    of_all = Likeness(2.0, None, "").probabilities(np.array([[1.0, 0.0]]))
    assert np.allclose(of_all, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]])
    single = Likeness(2.0, -1.0, "").probabilities(np.array([[1.0, 0.5]]), single=True)
    assert np.allclose(single, [[1 / (1 + np.exp(-1)), 0.5]])


def test_options_of_the_command_line():
    set_ = ClassOptions(classes="a,b", seen="a, b", stacking=1.0, templates=("x {}",))
    assert set_.chosen() == {
        "classes": "a,b",
        "seen": ["a", "b"],
        "stacking": 1.0,
        "templates": ("x {}",),
    }
    assert ClassOptions().chosen() == {}


def test_the_verb(model, data, tmp_path, capsys):
    (tmp_path / "d.csv").write_text(
        "caption,height,kind\n" + "".join(f"c {i},{i},a\n" for i in range(6)), encoding="utf-8"
    )
    amodal.pretrain("clip", str(tmp_path / "d.csv"), tmp_path / "run", **QUICK)
    words = [
        "predict",
        str(tmp_path / "run"),
        "--data",
        str(tmp_path / "d.csv"),
        "--out",
        str(tmp_path / "p.csv"),
    ]
    capsys.readouterr()
    main([*words, "--classes", "a,b", "--templates", "one {}", "photo"])
    said = capsys.readouterr().out
    assert "6 of 6 records compared with 2 classes" in said and "learned scale" in said
    rows = [*csv.DictReader((tmp_path / "p.csv").open())]
    assert len(rows) == 6 and {"class", "next", "margin", "class=a"} <= rows[0].keys()
    for more, message in (
        (["--templates", "one {}"], "--templates is of classes by name"),
        (["--classes", "a"], "there is only a"),
        ([], "or say which classes there are"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
