"""zero_shot with files of classes: what is measured, beside what, and what is said of it."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch.nn.functional import normalize

import amodal
from amodal.core import AmodalError
from amodal.data import open as open_data
from amodal.evaluate import NotApplicable, class_truth
from amodal.evaluate.protocol_registry import protocol
from amodal.inference.class_prompts import Classes, read_classes
from amodal.inference.classify import Likeness

QUICK = dict(steps=2, size="nano", progress=False, logger=None)
KINDS = {"owl": "hoots at night", "hen": "lays many eggs", "cow": "gives white milk"}


def records():
    """120 animals: a number that says little, and a text that says what each does."""
    rng = np.random.default_rng(0)
    kinds = rng.choice([*KINDS], 120)
    return open_data(
        {
            "body": [{"height": float(h)} for h in rng.normal(size=120)],
            "caption": [f"animal {i} {KINDS[k]}" for i, k in enumerate(kinds)],
            "kind": list(kinds),
            "owl": ["yes" if k == "owl" else "no" for k in kinds],
            "hen": ["yes" if k == "hen" else "no" for k in kinds],
            "all": [f"{k}; animal" if i % 4 else "animal" for i, k in enumerate(kinds)],
        }
    )


@pytest.fixture(scope="module")
def data():
    return records()


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    fields = data.select(["body", "caption"])
    return amodal.pretrain("clip", fields, tmp_path_factory.mktemp("run") / "clip", **QUICK)


def held_out(data):
    """So few records are tested on both parts."""
    return np.sort(np.concatenate([data.split("test"), data.split("valid")]))


def scores(model, data, sentences):
    """(N, C) cosines of the bodies of held-out records, by hand."""
    test = model.embed(data).aligned["body"].values[held_out(data)]
    words = open_data({"body": [{"height": 0.0}] * len(sentences), "caption": sentences})
    return (
        normalize(test, dim=1) @ normalize(model.embed(words).aligned["caption"].values, dim=1).T
    ).numpy()


def measured(model, data, **options):
    options = {"protocols": ["zero_shot"], "progress": False, **options}
    return model.evaluate(data, **options)


def test_metrics_are_those_of_scikit_learn(model, data):
    report = measured(model, data, label="kind", classes=KINDS, templates=["it {}"])
    like = scores(model, data, [f"it {KINDS[c]}" for c in ("cow", "hen", "owl")])
    truth = np.array(data.label("kind"))[held_out(data)]
    guess = np.array(["cow", "hen", "owl"])[like.argmax(1)]
    scale = float(model.method.logit_scale()().detach())
    p = np.exp(like * scale) / np.exp(like * scale).sum(1, keepdims=True)
    result = report["zero_shot"]
    assert result.spec["prompts"]["hen"] == ["it lays many eggs"]
    for metric, value in (
        ("accuracy", (guess == truth).mean()),
        ("balanced accuracy", balanced_accuracy_score(truth, guess)),
        ("macro F1", f1_score(truth, guess, average="macro")),
        ("AUROC", roc_auc_score(truth, p, multi_class="ovr")),
    ):
        assert result.value("body", metric) == pytest.approx(value, abs=1e-5), metric
    chances = {row["metric"]: row["chance"] for row in result.rows}
    assert chances["accuracy"] == chances["balanced accuracy"] == pytest.approx(1 / 3)
    assert chances["AUROC"] == 0.5


def test_the_simple_thing_is_tf_idf_of_the_own_text_and_one_label_a_class(model, data):
    report = measured(model, data, label="kind", classes=KINDS)
    rows = {row["metric"]: row for row in report.rows()}
    assert rows["accuracy"]["simple"] > 0.95, "captions have the very words of the classes"
    assert rows["accuracy"]["value"] < 0.9
    assert {"value", "simple", "untrained"} <= rows["balanced accuracy, 1 label"].keys()
    assert "tf-idf of caption" in report.about["notes"]["zero_shot"]
    assert "kind from body by zero-shot (zero_shot" in report.about["summary"]


def test_data_without_texts_has_no_simple_name_and_is_compared_with_one_label(model, data):
    bare = open_data(
        {"body": [{"height": h} for h in np.linspace(-1, 1, 60)], "kind": [*"ab"] * 30}
    )
    with pytest.warns(UserWarning, match="has no caption"):
        report = measured(model, bare, label="kind")
    rows = {row["metric"]: row for row in report.rows()}
    assert "simple" not in rows["accuracy"] and "simple" in rows["balanced accuracy, 1 label"]
    assert "no simple way to name" in report.about["notes"]["zero_shot"]


def test_what_one_label_gives_is_said_where_it_is_more():
    def row(metric, value, **more):
        return {"source": "body", "metric": metric, "value": value, "n": 50, **more}

    rows = [row("balanced accuracy", 0.2), row("balanced accuracy, 1 label", 0.3, simple=0.41)]
    said = protocol("zero_shot").remark(rows)
    assert (
        said
        == "One label a class and simple features do as well or better: body (.41, by names .20)."
    )
    assert not protocol("zero_shot").remark([rows[0], rows[1] | {"simple": 0.1}])


def test_records_that_have_any_number_of_classes(model, data):
    report = measured(model, data, label="kind", classes=["owl", "hen"], multi_label=True)
    like = scores(model, data, ["owl", "hen"])
    test = held_out(data)
    areas = [
        roc_auc_score(np.array(data.label(c))[test] == "yes", like[:, i])
        for i, c in enumerate(("owl", "hen"))
    ]
    result = report["zero_shot"]
    assert result.value("body", "AUROC, mean of classes") == pytest.approx(np.mean(areas), abs=1e-6)
    assert result.value("body", "AUROC", target="hen") == pytest.approx(areas[1], abs=1e-6)
    [mean] = [row for row in report.rows() if row["metric"] == "AUROC, mean of classes"]
    low, high = mean["intervals"]["trained"]
    assert low < mean["value"] < high and result.spec["label"] == "2 classes"
    listed = measured(model, data, label="all", multi_label=True)["zero_shot"]
    assert {row.get("target") for row in listed.rows} == {None, "cow", "hen", "owl"}


def test_truth_of_more_classes():
    labels = {
        "Low_voltage": np.array(["yes", "no", None], dtype=object),
        "pacs": np.array([1.0, 0.0, np.nan]),
        "listed": np.array(["pacs; low voltage", "none", None], dtype=object),
    }
    classes = read_classes(["low voltage", "PACS"])
    own = class_truth.multi_truth(labels, "listed", classes)
    by_list = class_truth.multi_truth({"listed": labels["listed"]}, "listed", classes)
    for truth in (own, by_list):
        assert truth[:2].tolist() == [[1, 1], [0, 0]] and np.isnan(truth[2]).all()
    with pytest.raises(NotApplicable, match="no label of yes and no for the class 'PACS'"):
        class_truth.multi_truth({"Low_voltage": labels["Low_voltage"]}, None, classes)
    with pytest.raises(NotApplicable, match="a record has 'perhaps'"):
        odd = {"a": np.array(["perhaps"], dtype=object), "b": labels["pacs"][:1]}
        class_truth.multi_truth(odd, None, Classes({"a": ("a",), "b": ("b",)}))


def test_seen_and_unseen_classes_by_hand(model, data):
    truth = np.array([0, 0, 1, 2, 2, 2])
    like = np.eye(3)[[0, 1, 1, 2, 2, 0]]
    rows = class_truth.seen_rows(truth, like, np.array([True, True, False]))
    values = {row["metric"]: (row["value"], row["n"]) for row in rows}
    assert values["macro top-1, seen"] == (0.75, 3)
    assert values["macro top-1, unseen"] == (pytest.approx(2 / 3), 3)
    assert values["macro top-1, harmonic mean"][0] == pytest.approx(
        2 * 0.75 * (2 / 3) / (0.75 + 2 / 3)
    )
    assert not class_truth.seen_rows(truth, like, np.array([True, True, True]))
    options = {"label": "kind", "classes": KINDS, "untrained": False, "simple": False}
    none = measured(model, data, **options)["zero_shot"]
    assert not any(row["metric"].startswith("macro top-1") for row in none.rows), "all were seen"
    far = measured(model, data, **options, seen=["owl", "hen"], stacking=3.0)["zero_shot"]
    assert (
        far.value("body", "macro top-1, seen") == 0
        and far.value("body", "macro top-1, unseen") == 1
    )
    with pytest.raises(AmodalError, match="the seen class 'ox' is none"):
        measured(model, data, **options, seen=["ox"])


def test_rows_below_chance():
    truth, who = np.arange(60) % 3, np.arange(60)
    wrong = np.eye(3)[(truth + 1) % 3]
    rows = {
        r["metric"]: r for r in class_truth.single_rows(truth, wrong, Likeness(9.0, None, ""), who)
    }
    assert (
        rows["balanced accuracy"]["value"] == 0 and rows["AUROC"]["value"] < rows["AUROC"]["chance"]
    )
    assert rows["accuracy"]["chance"] == pytest.approx(1 / 3) and rows["accuracy"]["n"] == 60


def test_classes_of_another_label_are_refused(model, data):
    with pytest.raises(AmodalError, match="none of the classes cat, dog is a class of 'kind'"):
        measured(model, data, label="kind", classes="cat,dog")


def test_a_run_without_a_common_space_is_skipped_with_what_to_do(data, tmp_path):
    run = amodal.pretrain("simclr", data.select(["body", "caption"]), tmp_path / "s", **QUICK)
    report = run.evaluate(data, label="kind", protocols=["zero_shot", "knn"], progress=False)
    assert "no common space of caption" in report.skipped["zero_shot"]
    assert "amodal adapt" in report.skipped["zero_shot"]
