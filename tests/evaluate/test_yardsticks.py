"""What simple features get, on sets where it is known."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import amodal
from amodal.core import Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data import Label
from amodal.evaluate import Embedded, Report, evaluate
from amodal.evaluate.context import EmbeddedParts
from amodal.evaluate.intervals import add_intervals
from amodal.evaluate.labels import NotApplicable, classification_rows
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.evaluate.result import Result
from amodal.evaluate.runner import parts
from amodal.evaluate.verdict import summary
from amodal.evaluate.yardsticks import SimpleParts, pair_maps
from amodal.inference.embed import embed_records
from amodal.inference.simple_features import FieldValues
from amodal.modalities import NoSimpleFeatures
from amodal.stats.paired_bootstrap import Bootstrap


def encoder_for(records, seed=0):
    torch.manual_seed(seed)
    return amodal.Encoder(records.fields, size="nano").align(16)


def opened(values, label=None):
    records = amodal.open(values)
    if label is not None:
        records.labels.update({label: Label()})
    return records


def shown(report, **options):
    console = Console(width=250, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(report.table(**options))
    return console.export_text()


@pytest.fixture(scope="module")
def captions():
    """Captions of noise and one word, an anagram of those of other classes; and noise."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.permutation(list("stearnl"))[:5]) for _ in range(20)]
    topics = {"sea": "alerts", "wood": "slater", "town": "staler"}
    label = rng.choice(list(topics), 240)
    text = []
    for one in label:
        text.append(" ".join(rng.permutation([*rng.choice(words, 5), topics[one]])))
    curve = list(rng.normal(size=(240, 6)).astype(np.float32))
    records = opened({"caption": text, "curve": curve, "topic": label.tolist()}, "topic")
    return records, evaluate(
        encoder_for(records),
        records,
        baseline=encoder_for(records, 1),
        label="topic",
        protocols=["linear", "retrieval", "cluster"],
        progress=False,
    )


def test_captions_that_tf_idf_solves(captions):
    _, report = captions
    row = next(
        r
        for r in report.rows()
        if (r["protocol"], r["source"], r["metric"]) == ("linear", "caption", "accuracy")
    )
    assert row["simple"] > 0.9 > 0.75 > max(row["untrained"], row["value"])
    sentence = report.about["summary"]
    assert sentence.startswith("nothing learnt here beats simple features: use ")
    assert "tf-idf for topic from caption (linear " in sentence and sentence.endswith(".")
    assert report.about["simple"] == {"caption": "tf-idf", "curve": "raw cells"}
    nothing = sentence.partition("chance for ")[2]
    assert "topic from curve" in nothing or "by curve" in nothing
    text = shown(report)
    assert "simple: caption tf-idf, curve raw cells" in text
    assert text.index("trained") < text.index("chance") and " simple " in text


def test_only_protocols_that_are_marked_have_a_yardstick(captions, tmp_path):
    _, report = captions
    measured = {r["protocol"]: "simple" in r for r in report.rows()}
    assert measured == {"linear": True, "retrieval": True, "cluster": False}
    file = report.save(tmp_path / "report.json", figures=False)
    read = json.loads(file.read_text(encoding="utf-8"))
    assert read["about"]["summary"] == report.about["summary"]
    assert "simple" in read["results"][0]["rows"][0]
    assert Report.load(file).rows() == report.rows()
    for result in read["results"]:
        for row in result["rows"]:
            row.pop("simple", None)
    read["about"].pop("summary")
    file.write_text(json.dumps(read), encoding="utf-8")
    older = Report.load(file)
    assert older.simple is None and older.untrained is not None
    assert "simple" not in shown(older)


def test_it_can_be_left_out(captions):
    records, _ = captions
    report = evaluate(
        encoder_for(records), records, protocols=["knn"], simple=False, progress=False
    )
    assert report.simple is None and not any("simple" in row for row in report.rows())
    assert "simple" not in report.about.get("summary", "")


def test_simple_features_have_the_rows_of_the_model_and_are_made_once(captions, monkeypatch):
    records, _ = captions
    encoder = encoder_for(records)
    train, test, _ = parts(encoder, records)
    some = [3, 4, 8, 9]
    pair = tuple(embed_records(encoder, records, rows) for rows in (train, test))
    bad = pair[1]
    column = bad.aligned["caption"]
    bad.aligned.columns["caption"] = column.at(torch.tensor(some))
    bad.content["caption"] = bad.content["caption"][some]
    calls = []
    text = type(records.fields["caption"])
    original = text.simple_features
    monkeypatch.setattr(
        text, "simple_features", lambda self, raws: calls.append(1) or original(self, raws)
    )
    simple = SimpleParts(encoder.fields, records, (train, test), EmbeddedParts(lambda: pair))
    assert not simple.made
    for _ in range(2):
        a, b = simple.pair
    assert calls == [1] and a.keys == pair[0].keys and b.keys == bad.keys
    assert b.features["caption"].rows.tolist() == column.rows[some].tolist()
    assert len(a.features["caption"]) == len(train) and len(b.features[FUSED]) == len(test)
    assert all(c.values.isfinite().all() for e in (a, b) for c in e.probed().values())
    values = FieldValues(records, "caption", test)
    assert values[0] == records.raw(test[0], "caption") and len(values[2:5]) == 3


def test_a_field_without_simple_features_has_no_yardstick(captions, monkeypatch):
    records, _ = captions

    def none(self, train):
        raise NoSimpleFeatures("none")

    monkeypatch.setattr(type(records.fields["caption"]), "simple_features", none)
    run = dict(protocols=["linear"], label="topic", progress=False)
    report = evaluate(encoder_for(records), records, **run)
    assert {r["source"] for r in report.rows() if "simple" in r} == {"curve", FUSED}
    only = evaluate(encoder_for(records), records, sources=["caption"], **run)
    assert not any("simple" in r for r in only.rows())
    monkeypatch.setattr(type(records.fields["curve"]), "simple_features", none)
    report = evaluate(encoder_for(records), records, **run)
    assert not any("simple" in r for r in report.rows())


def test_pairs_that_share_only_their_duration_are_found_by_duration():
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.1, 1.0, 400)
    sound = [rng.normal(0, 0.1, int(1000 * s)).astype(np.float32) for s in seconds]
    steps = [rng.normal(size=(int(100 * s), 1)).astype(np.float32) for s in seconds]
    fields = {
        "sound": amodal.modalities.kind("audio").infer(sound[:50], rate=1000),
        "steps": amodal.modalities.kind("series").infer(steps[:50]),
    }
    sides = []
    lengths = (np.log([[len(x)] for x in values]) for values in (sound, steps))
    duration = [torch.from_numpy(x).float() for x in lengths]
    for name, values in (("sound", sound), ("steps", steps)):
        transform = fields[name].simple_features(values[:250])
        sides.append(torch.from_numpy(transform(values)))
    maps = pair_maps(*(side[:250] for side in sides))
    rows = torch.arange(150)
    test = Embeddings({n: Column(m(s[250:]), rows) for n, m, s in zip(fields, maps, sides)}, 150)
    embedded = Embedded([str(i) for i in range(150)], test, test)
    for a, b in (("sound", "steps"), ("steps", "sound")):
        simple = retrieval(None, embedded).value(a, "recall@10", target=b)
        query, gallery = duration if a == "sound" else duration[::-1]
        query, gallery = (x[250:] - y[:250].mean() for x, y in ((query, query), (gallery, gallery)))
        distance = (query - gallery.T).abs()
        truth = distance.diagonal()[:, None]
        nearest = ((distance < truth).sum(1) < 10).float().mean().item()
        assert simple > 0.9 and simple == pytest.approx(nearest, abs=0.03)


def test_the_sentence_says_that_duration_alone_finds_the_pairs():
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.1, 0.5, 300)
    records = amodal.open(
        {
            "sound": [rng.normal(0, 0.1, int(1000 * s)).astype(np.float32) for s in seconds],
            "steps": [rng.normal(size=(int(100 * s), 1)).astype(np.float32) for s in seconds],
        },
        fields={
            "sound": amodal.modalities.make("audio", rate=1000),
            "steps": "series",
        },
    )
    report = evaluate(encoder_for(records), records, protocols=["retrieval"], progress=False)
    sentence = report.about["summary"]
    assert sentence.startswith("nothing learnt here beats simple features: use simple features for")
    assert "retrieval of steps by sound" in sentence and "retrieval of sound by steps" in sentence
    assert report.about["simple"]["sound"] == "log-mel statistics"


def test_fields_that_share_nothing_are_found_by_chance():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 8, generator=rng) for _ in range(2))
    x, y = (m(z) for m, z in zip(pair_maps(a[:200], b[:200]), (a[200:], b[200:])))
    both = Embeddings({n: Column(z, torch.arange(100)) for n, z in (("x", x), ("y", y))}, 100)
    value = retrieval(None, Embedded([str(i) for i in range(100)], both, both))
    assert value.value("x", "recall@10", target="y") < 0.25
    few = pair_maps(a[:9], b[:9])
    assert not few[0](a).any() and not few[1](b).any()


def test_a_table_whose_raw_cells_win():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12))
    label = np.where(x[:, 3] + 0.8 * x[:, 7] > 0, "high", "low")
    rows = [{f"c{i}": float(v) for i, v in enumerate(row)} for row in x]
    records = opened({"cells": rows, "level": label.tolist()}, "level")
    report = evaluate(
        encoder_for(records), records, label="level", protocols=["linear"], progress=False
    )
    rows = {r["metric"]: r for r in report.rows() if r["source"] == "cells"}
    assert rows["balanced accuracy"]["simple"] > 0.93
    assert rows["AUROC"]["simple"] > 0.97 and rows["AUROC"]["chance"] == 0.5


def row(metric="balanced accuracy", **values):
    usual = {"protocol": "knn", "label": "kind", "source": "image", "n": 200, "chance": 0.5}
    return usual | {"metric": metric} | values


def test_a_class_of_most_records_is_not_praised():
    rng = np.random.default_rng(0)
    truth = (rng.random(200) < 0.14).astype(np.int64)
    blind = classification_rows(truth, np.zeros(200, dtype=np.int64), 0)
    values = {r["metric"]: r["value"] for r in blind}
    assert values["accuracy"] > 0.8 and values["balanced accuracy"] == 0.5
    assert values["macro F1"] == next(r["chance"] for r in blind if r["metric"] == "macro F1") < 0.5
    rows = [row(**r | {"untrained": 0.4, "simple": r["value"]}) for r in blind]
    assert summary(rows) == (
        "the model is not above chance for kind from image; "
        "86% of the records are of one class of kind, so balanced accuracy is compared."
    )


def test_the_sentence_calls_only_what_exceeds_the_interval():
    assert summary([]) == summary([row("accuracy", value=1.0)]) == ""
    text = [row(value=0.75, simple=0.94, untrained=0.7, source="text")]
    good = [row(value=0.9, simple=0.72, untrained=0.7)]
    assert summary(text + good, simple={"text": "tf-idf"}) == (
        "use tf-idf for kind from text (knn .94, trained .75); "
        "the model adds .18 for kind from image."
    )
    better = [row(value=0.95, simple=0.72, untrained=0.7)]
    assert summary(text + better).startswith("the model adds .23 for"), "largest gap first"
    assert summary(text) == (
        "nothing learnt here beats simple features: "
        "use simple features for kind from text (knn .94, trained .75)."
    )
    near = [row(value=0.76, simple=0.74, untrained=0.6)]
    assert summary(near) == "the model is no better than simple features for kind from image."
    idle = [row(value=0.9, simple=0.6, untrained=0.89)]
    assert summary(idle) == "the model is no better than the untrained encoder for kind from image."
    frozen = [row(value=0.9, simple=0.6, untrained=0.5, frozen=0.89)]
    assert "no better than its pretrained model for kind" in summary(frozen)
    best = [
        row(value=0.9, simple=0.6, protocol="linear"),
        row(value=0.6, simple=0.9, protocol="knn"),
    ]
    assert "no better than simple features" in summary(best), "the best protocol of each counts"
    found = row(
        "recall@10", value=0.9, simple=0.5, chance=0.05, protocol="retrieval", target="text"
    )
    found.pop("label")
    assert summary([found]) == "the model adds .40 for retrieval of text by image."
    tiny = [row("Spearman", value=0.998, simple=0.9999, chance=0.0)]
    assert "no better than simple" in summary(tiny)
    many = [row(value=0.9, simple=0.5 + i / 50, source=s) for i, s in enumerate("ebcda")]
    assert summary(many) == (
        "the model adds .40 for kind from e, .38 for kind from b, .36 for kind from c and 2 more."
    )


def test_below_chance_is_said_plainly():
    zero = [row(value=0.035, chance=0.045, protocol="zero_shot", n=200)]
    assert summary(zero) == (
        "the model is below chance for kind from image by zero-shot (.035 against .045)."
    )
    ahead = [row(value=0.5, chance=0.045, protocol="zero_shot", n=200)]
    assert summary(ahead) == "", "nothing is said of gains over no yardstick"
    worse = [row(value=0.015, chance=0.045, protocol="zero_shot", n=200, simple=0.5)]
    assert summary(worse) == (
        "nothing learnt here beats simple features: use simple features of the own text for kind from image by zero-shot "
        "(zero_shot .50, trained .01); the model is below chance for kind from image by zero-shot (.015 against .045)."
    )
    equal = [row(value=0.045, chance=0.045, protocol="zero_shot", n=200)]
    assert summary(equal) == "the model is not above chance for kind from image by zero-shot."


def test_training_that_spoils_features_is_named():
    spoilt = [row(value=0.7, simple=0.6, untrained=0.9)]
    assert summary(spoilt) == (
        "training made worse kind from image (the untrained encoder .90, trained .70)."
    )
    both = [row(value=0.6, simple=0.8, frozen=0.95, untrained=0.3)]
    assert summary(both) == (
        "training made worse kind from image (its pretrained model .95, trained .60); nothing learnt "
        "here beats simple features: use simple features for kind from image (knn .80, trained .60)."
    )


def test_paired_outcomes_call_what_independent_ones_do_not():
    rng = np.random.default_rng(0)
    truth, who = np.repeat([0, 1], 100), np.arange(200)
    guesses = {"value": truth.copy(), "simple": truth.copy()}
    wrong = rng.permutation(200)
    guesses["value"][wrong[:30]] = 2
    guesses["simple"][wrong[:44]] = 2  # wrong where the other is, and 14 times more
    report = Report([Result("knn", {"label": "kind"}, [])])
    rows = {
        column: classification_rows(truth, guess, 0, who=who) for column, guess in guesses.items()
    }
    made = {
        column: [Result("knn", {"label": "kind"}, [{"source": "image", **r} for r in of])]
        for column, of in rows.items()
    }
    report = Report(made["value"], simple=made["simple"])
    sentence = "the model adds .07 for kind from image."
    bootstrap = Bootstrap(200)
    assert summary(report.rows(), report.outcomes(), bootstrap) == sentence
    assert "no better than simple" in summary(report.rows())
    add_intervals(report, bootstrap)
    (balanced,) = (r for r in report.rows() if r["metric"] == "balanced accuracy")
    low, high = balanced["intervals"]["trained - simple"]
    assert 0 < low < 0.07 < high and "unpaired" not in balanced
    assert balanced["intervals"]["trained"][0] < 0.85 < balanced["intervals"]["trained"][1]
    assert report.about["intervals"]["draws"] == 1000


def test_where_one_column_has_no_outcomes_the_interval_is_that_of_independent_ones():
    truth = np.repeat([0, 1], 100)
    one = classification_rows(truth, truth, 0, who=np.arange(200))
    other = classification_rows(truth, np.where(np.arange(200) % 9, truth, 2), 0)
    results = [
        [Result("knn", {"label": "kind"}, [{"source": "image", **r} for r in rows])]
        for rows in (one, other)
    ]
    report = Report(results[0], results[1])
    add_intervals(report, Bootstrap(200))
    first = report.rows()[0]
    assert first["unpaired"] == ["untrained"]
    low, high = first["intervals"]["trained - untrained"]
    assert low < first["value"] - first["untrained"] < high
    assert first["intervals"]["trained"][0] < 1.0, "all right: the interval of a share"


def test_bold_is_what_beats_everything():
    def cell(**values):
        report = Report([Result("knn", {"label": "kind"}, [])], about={})
        one = {"source": "image", "metric": "accuracy", "n": 100, "chance": 0.5} | values
        report.results[0].rows.append(one)
        report.untrained = [Result("knn", {}, [one | {"value": 0.6}])]
        report.simple = [Result("knn", {}, [one | {"value": 0.7}])]
        table = report.table()
        assert [c.header for c in table.columns][-4:] == [
            "trained",
            "simple",
            "untrained",
            "chance",
        ]
        return list(table.columns[-4].cells)[0]

    assert cell(value=0.65) == "0.650" and cell(value=0.75) == "[bold]0.750[/]"


def test_macro_f1_and_auroc_are_those_of_scikit_learn():
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 3, 90), rng.dirichlet((1, 1, 1), 90)
    rows = {r["metric"]: r for r in classification_rows(truth, p.argmax(1), 0, p)}
    assert rows["macro F1"]["value"] == pytest.approx(f1_score(truth, p.argmax(1), average="macro"))
    assert rows["AUROC"]["value"] == pytest.approx(roc_auc_score(truth, p, multi_class="ovr"))
    assert "AUROC" not in {r["metric"] for r in classification_rows(truth, truth, 0)}
    one = {r["metric"] for r in classification_rows(np.zeros(9, dtype=int), np.zeros(9, int), 0, p)}
    assert "AUROC" not in one


def test_without_any_simple_feature_nothing_is_made_twice():
    calls = []

    def make():
        calls.append(1)
        empty = Embeddings({}, 0)
        return Embedded([], empty, empty), Embedded([], empty, empty)

    simple = SimpleParts({}, None, (np.arange(0), np.arange(0)), EmbeddedParts(make))
    for _ in range(2):
        with pytest.raises(NotApplicable, match="no field has simple features"):
            _ = simple.pair
    assert calls == [1]
