"""`amodal adapt` without a tuning: heads on frozen and simple features beside a fine-tuned network."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import skops.io
import torch

import amodal
from amodal import data as records
from amodal.adapt import adapt
from amodal.core import AmodalError, Column
from amodal.data import Dataset
from amodal.data.schema import Label
from amodal.inference import probe_head
from amodal.inference.probe_head import Linear, ProbeHead
from amodal.nn.heads.supervised import Target
from amodal.serve.limits import Limits
from amodal.serve.metrics import Metrics
from amodal.serve.service import Service
from amodal.studies import adapt as adapting
from amodal.studies.choose_head import Choice, Score, choose, score_of, sentence
from amodal.studies.frozen_heads import Records, drawn

QUICK = {"size": "nano", "batch_size": 64, "progress": False}
TUNED = {"steps": 2, "batch_size": 64, "progress": False}


def toys(n=240, seed=0):
    """A number that decides the kind, words that do not, and amounts and times that hang on it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    missing = rng.random(n) < 0.2
    event = rng.random(n) < 0.8
    dataset = records.open(
        {
            "cells": [{"x": float(v), "noise": float(w)} for v, w in zip(x, rng.normal(size=n))],
            "note": [None if m else f"note {i}" for i, m in enumerate(missing)],
            "kind": ["high" if v > 0 else "low" for v in x],
            # not of i, whose last digit the note has
            "coin": ["head" if c else "tail" for c in np.random.default_rng(9).random(n) < 0.5],
            "amount": [float(3 * v + 100) for v in x],
            "days": [float(np.exp(-v + 0.1 * e)) for v, e in zip(x, rng.normal(size=n))],
            "died": ["yes" if e else "no" for e in event],
        }
    )
    fields = {name: m for name, m in dataset.schema.fields.items() if name in ("cells", "note")}
    numbers = {"amount": Label("number"), "days": Label("number")}
    schema = replace(dataset.schema, fields=fields, labels=dataset.schema.labels | numbers)
    return Dataset(dataset.reader, schema, dataset.path, dataset.name)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choose")
    dataset = toys()
    amodal.pretrain("clip", dataset, folder / "run", steps=1, recipe="plain", **QUICK)
    return dataset, folder


@pytest.fixture(scope="module")
def chosen(start):
    dataset, folder = start
    model = amodal.load(folder / "run").adapt(dataset, folder / "kind", label="kind", **TUNED)
    return dataset, folder / "kind", model


def choice_of(folder):
    return json.loads((folder / "adaptation.json").read_text(encoding="utf-8"))


def test_simple_features_are_chosen_where_the_network_knows_nothing(chosen, capsys):
    dataset, folder, model = chosen
    choice = choice_of(folder)
    assert len(choice["scores"]) == 7 and choice["metric"] == "balanced accuracy"
    simple = {
        n: s["value"] for n, s in choice["scores"].items() if n.endswith("on simple features")
    }
    assert len(simple) == 2 and simple[choice["chosen"]] == max(simple.values()) > 0.9
    assert choice["scores"]["fine-tuning (lora)"]["value"] < 0.8
    assert isinstance(model.head, ProbeHead) and "simple" in model.head.name
    table = model.predict(dataset, part="test")
    truth = dataset.label("kind")[dataset.split("test")]
    assert np.mean(np.array(table["kind"]) == truth) > 0.9
    both = np.array(table["kind=high"]) + np.array(table["kind=low"])
    np.testing.assert_allclose(both, 1, atol=1e-5)


def test_the_run_predicts_the_same_when_it_is_opened_and_saved(chosen, tmp_path):
    dataset, folder, model = chosen
    table = model.predict(dataset, part="test")
    opened = amodal.load(folder)
    assert opened.predict(dataset, part="test").equals(table)
    opened.save(tmp_path / "copy")
    assert amodal.load(tmp_path / "copy").predict(dataset, part="test").equals(table)
    assert opened.fingerprint == amodal.load(folder.parent / "run").fingerprint
    report = opened.evaluate(dataset, label="kind", protocols=["head"], progress=False)
    truth = dataset.label("kind")[dataset.split("test")]
    share = np.mean(np.array(table["kind"]) == truth)
    # the validation part, which the head was chosen on, is not tested on
    assert report.about["parts"] == "train; test" and report.about["test"] == len(truth)
    assert report["head"].value("fused", "accuracy", target="kind") == pytest.approx(share)
    assert "kind" in (folder / "README.md").read_text(encoding="utf-8")


def test_records_that_lack_what_it_reads(chosen):
    dataset, _, model = chosen
    cells = [dataset.raw(i, "cells") for i in range(6)]
    alone = records.open({"cells": cells}, fields={"cells": dataset.fields["cells"]})
    with pytest.warns(UserWarning, match="has no note"):
        table = model.predict(alone)
    assert table["kind"].null_count == 0
    truth = dataset.label("kind")[:6]
    assert np.mean(np.array(table["kind"]) == truth) > 0.8


def test_a_server_predicts_what_predict_does(chosen):
    dataset, _, model = chosen
    service = Service(model, limits=Limits(), metrics=Metrics())
    asked = [
        {name: dataset.raw(i, name) for name in ("cells", "note") if dataset.raw(i, name)}
        for i in range(20)
    ]
    encoded = asyncio.run(service.encode(asked))
    table = model.predict(dataset.subset(range(20)))
    expected = np.stack([np.array(table["kind=high"]), np.array(table["kind=low"])], 1)
    got = np.stack([one.predictions["kind"] for one in encoded])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_amounts_survival_and_more_than_one_label(start):
    dataset, folder = start
    for label, task, least in (
        ("amount", "", 0.9),
        ("days,died", "survival", 0.85),
        ("kind,amount", "", 0.9),
    ):
        out = folder / f"of {label}"
        adapt(folder / "run", dataset, out, label=label, task=task, **TUNED)
        choice, model = choice_of(out), amodal.load(out)
        assert choice["scores"][choice["chosen"]]["value"] > least, choice["summary"]
        assert {t.name for t in model.head.targets} == ({label} if task else set(label.split(",")))
        table = model.predict(dataset, part="test")
        rows = dataset.split("test")
        if "amount" in label:
            truth = dataset.label("amount")[rows]
            assert np.corrcoef(np.array(table["amount"]), truth)[0, 1] > 0.95
        if task:
            risk = np.array(table["log hazard of died"])
            assert np.corrcoef(risk, np.log(dataset.label("days")[rows]))[0, 1] < -0.8
            assert not any("trees" in name for name in choice["scores"])


def test_labels_that_hang_on_nothing_are_at_chance(start):
    dataset, folder = start
    adapt(folder / "run", dataset, folder / "coin", label="coin", **TUNED)
    table = amodal.load(folder / "coin").predict(dataset, part="test")
    truth = dataset.label("coin")[dataset.split("test")]
    assert np.mean(np.array(table["coin"]) == truth) < 0.8


def test_few_labels_are_those_that_are_learnt_from(start, monkeypatch):
    dataset, folder = start
    seen = []
    original = adapting.frozen_heads
    monkeypatch.setattr(
        adapting,
        "frozen_heads",
        lambda encoder, train, *a, **k: (
            seen.append(train.rows) or original(encoder, train, *a, **k)
        ),
    )
    adapt(folder / "run", dataset, folder / "few", label="kind", shots=3, seed=1, **TUNED)
    config = json.loads((folder / "few" / "fine_tuned" / "config.json").read_text(encoding="utf-8"))
    assert len(seen[0]) == 6 == config["data"]["train"]


def test_a_run_is_gone_on_with_and_never_overwritten(chosen):
    dataset, folder, model = chosen
    before = (folder / "config.json").read_text(encoding="utf-8")
    with pytest.raises(AmodalError, match="holds a run already; add --resume"):
        adapt(folder.parent / "run", dataset, folder, label="kind", **TUNED)
    adapt(folder.parent / "run", dataset, folder, label="kind", resume=True, **TUNED)
    assert (folder / "config.json").read_text(encoding="utf-8") == before
    for other in (
        {"label": "coin"},
        {"label": "kind", "shots": 3},
        {"label": "kind", "seed": 5},
        {"label": "kind", "steps": 9},
    ):
        name = next(iter(other.keys() - {"label"}), "label")
        with pytest.raises(AmodalError, match=f"was adapted otherwise: .*{name} was"):
            adapt(folder.parent / "run", dataset, folder, resume=True, **TUNED | other)
    (folder / "config.json").unlink()  # as after a kill, the fine-tuned network was trained
    adapt(folder.parent / "run", dataset, folder, label="kind", resume=True, **TUNED)
    assert amodal.load(folder).predict(dataset).equals(model.predict(dataset))
    adapt(
        folder.parent / "run", dataset, folder.parent / "own", label="kind", tuning="head", **TUNED
    )
    with pytest.raises(AmodalError, match="started with a tuning of its own"):
        adapt(folder.parent / "run", dataset, folder.parent / "own", label="kind", resume=True)


def test_a_fine_tuned_network_that_is_better_becomes_the_run(start, monkeypatch):
    dataset, folder = start
    original = adapting.score_of

    def better(head, outputs, valid):
        score = original(head, outputs, valid)
        return score if isinstance(head, ProbeHead) else Score(2.0, 0.01, 0.0)

    monkeypatch.setattr(adapting, "score_of", better)
    out = folder / "better"
    adapt(folder / "run", dataset, out, label="kind", **TUNED)
    model = amodal.load(out)
    assert choice_of(out)["chosen"] == "fine-tuning (lora)" and not (out / "fine_tuned").exists()
    assert not isinstance(model.head, ProbeHead) and not (out / probe_head.FILE).exists()
    report = model.evaluate(dataset, label="kind", protocols=["head"], progress=False)
    assert report.about["parts"] == "train; test"
    assert len(model.predict(dataset, part="test")) == len(dataset.split("test"))


def test_mistakes_are_said_before_anything_is_trained(start):
    dataset, folder = start
    out = folder / "wrong"
    with pytest.raises(AmodalError, match="kindd"):
        adapt(folder / "run", dataset, out, label="kindd", **TUNED)
    with pytest.raises(AmodalError, match="mmrl"):
        adapt(folder / "run", dataset, out, label="kind", base_to_new=True, **TUNED)
    cells = [{"x": float(i % 7), "noise": 0.0} for i in range(60)]
    note = [f"note {i}" for i in range(60)]
    own = records.open({"cells": cells, "note": note, "kind": ["a", "b"] * 30})
    train = set(own.split("train").tolist())
    kinds = [k if i in train else None for i, k in enumerate(["a", "b"] * 30)]
    own = records.open({"cells": cells, "note": note, "kind": kinds})
    with pytest.raises(AmodalError, match="0 records of the validation part have the label 'kind'"):
        adapt(folder / "run", own, out, label="kind", **TUNED)
    assert not (out / "config.json").exists() and not (out / "fine_tuned").exists()


def test_heads_that_are_damaged_or_hold_other_types_are_not_opened(chosen, tmp_path):
    dataset, folder, model = chosen
    copy = model.save(tmp_path / "copy")
    file, config = (
        copy / probe_head.FILE,
        json.loads((copy / "config.json").read_text(encoding="utf-8")),
    )
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(AmodalError, match=f"{probe_head.FILE} is damaged"):
        amodal.load(copy)
    file.unlink()
    with pytest.raises(AmodalError, match="cannot be read"):
        amodal.load(copy)
    import hashlib
    from collections import Counter

    foreign = skops.io.dumps({"targets": [], "model": Counter})
    file.write_bytes(foreign)
    config["head"]["sha256"] = hashlib.sha256(foreign).hexdigest()
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(AmodalError, match="cannot be opened"):
        amodal.load(copy)


def test_what_needs_more_has_to_be_better_by_more_than_noise():
    ladder = (["simple", "simple too"], ["encoder", "both"], ["tuned"])

    def chosen(**values):
        made = {n.replace("_", " "): Score(v, 0.02, loss) for n, (v, loss) in values.items()}
        return choose(made, ladder)

    assert chosen(simple=(0.9, 1.0), encoder=(0.91, 0.1), tuned=(0.915, 0.1)) == "simple"
    assert chosen(simple=(0.9, 1.0), encoder=(0.93, 1.0), both=(0.94, 1.0)) == "both"
    assert chosen(simple=(0.9, 1.0), encoder=(0.93, 1.0), tuned=(0.94, 1.0)) == "encoder"
    assert chosen(simple=(0.9, 1.0), encoder=(0.93, 1.0), tuned=(0.96, 1.0)) == "tuned"
    assert chosen(simple=(0.9, 1.0), encoder=(0.91, 1.0), tuned=(0.93, 1.0)) == "tuned"
    assert chosen(simple=(0.9, 0.3), simple_too=(0.9, 0.2)) == "simple too"
    assert chosen(encoder=(0.5, 1.0), tuned=(0.1, 1.0)) == "encoder"
    assert chosen(tuned=(0.1, 1.0)) == "tuned"


def test_a_sentence_names_all_of_them():
    def scores(**values):
        return {n: Score(v, 0.02, loss) for n, (v, loss) in values.items()}

    text = sentence(scores(a=(0.8, 1.0), b=(0.9, 1.0)), "b", "accuracy", 40)
    assert text.startswith("chose b: accuracy 0.900 ±0.039 on 40 validation records; a 0.800")


def test_scores_count_records_without_an_output_as_wrong():
    target = Target("kind", "classes", ("a", "b"))
    head = ProbeHead(None, (target,), "encoder", {"kind": Linear(torch.eye(2), torch.zeros(2))})
    valid = Records(
        SimpleNamespace(label=lambda name, required: np.array(["a", "b", "a", None], object)),
        np.arange(4),
    )
    logits = torch.tensor([[5.0, 0], [5.0, 0]])
    score = score_of(head, Column(logits, torch.tensor([0, 1])), valid)
    assert score.value == pytest.approx((1 / 2 + 0) / 2), "one of two a, and the only b is wrong"
    assert score.error == pytest.approx(((0.25 / 2 + 0) ** 0.5) / 2)
    full = torch.tensor([[5.0, 0], [0, 5.0], [5.0, 0], [5.0, 0]])
    assert score_of(head, Column(full, torch.arange(4)), valid).value == 1


def test_amounts_of_records_without_an_output_count_as_the_mean():
    """Or a head that skips hard records would be chosen."""
    target = Target("y", "amount", mean=1.0, std=2.0)
    head = ProbeHead(None, (target,), "encoder", {"y": Linear(torch.ones(1, 1), torch.zeros(1))})
    truth = np.array([0.0, 2.0, 9.0, np.nan])
    valid = Records(SimpleNamespace(label=lambda name, required: truth), np.arange(4))
    outputs = Column(torch.tensor([[-0.5], [0.5]]), torch.tensor([0, 1]))  # exact, of two
    guess = np.array([0.0, 2.0, 1.0])
    r2 = 1 - np.square(truth[:3] - guess).mean() / truth[:3].var()
    assert score_of(head, outputs, valid).value == pytest.approx(r2)


def test_a_choice_is_read_as_it_was_written(tmp_path):
    choice = Choice("a", "accuracy", {"a": Score(0.5, 0.1, 1.0, 2.0)}, 9, "chose a")
    choice.save(tmp_path)
    assert Choice.load(tmp_path) == choice and Choice.load(tmp_path / "none") is None


def test_of_many_records_some_are_drawn_by_the_seed():
    many = Records(None, np.arange(100, 200))
    first, second = drawn(many, 0, most=10), drawn(many, 1, most=10)
    assert len(first.rows) == 10 and set(first.rows) != set(second.rows)
    assert list(first.rows) == sorted(set(first.rows)) and set(first.rows) <= set(many.rows)
    assert drawn(many, 0, most=100) is many
