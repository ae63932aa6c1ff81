"""Runs of one configuration with different seeds, as one report."""

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.evaluate import Report, evaluate, evaluate_many, over_runs
from amodal.evaluate.labels import classification_rows
from amodal.evaluate.result import Result
from amodal.stats.paired_bootstrap import Bootstrap
from tests.evaluate.test_yardsticks import encoder_for, opened, shown


def report_of(accuracy, seed, *, simple=0.7, **about):
    """A run's report on 300 records of two classes."""
    truth = np.tile([0, 1], 150)
    columns = []
    for rate, of in ((accuracy, seed), (simple, 99)):
        right = np.random.default_rng(of).permutation(300) < rate * 300
        rows = classification_rows(truth, np.where(right, truth, 2), 0, who=np.arange(300))
        columns.append([Result("knn", {"label": "kind"}, [{"source": "x", **r} for r in rows])])
    about = {"test": 300, "fingerprint": "f"} | about
    report = Report(columns[0], about=about, simple=columns[1])
    report.bootstrap = Bootstrap(300)
    return report


def accuracy_of(report):
    (row,) = (r for r in report.rows() if r["metric"] == "accuracy")
    return row


def test_a_row_is_the_mean_with_an_interval_over_runs_and_one_over_records(tmp_path):
    merged = over_runs([report_of(a, i) for i, a in enumerate((0.86, 0.88, 0.90))])
    row = accuracy_of(merged)
    assert row["value"] == pytest.approx(0.88) and row["runs"] == pytest.approx([0.86, 0.88, 0.9])
    low, high = row["interval"]  # 4.303 * 0.02 / sqrt(3)
    assert (low, high) == (pytest.approx(0.88 - 0.0497, abs=1e-4), pytest.approx(0.9297, abs=1e-4))
    records = row["intervals"]["trained"]
    assert 0.84 < records[0] < 0.88 < records[1] < 0.92
    one = over_runs([report_of(0.88, 0)])
    assert "runs" not in accuracy_of(one)
    assert row["simple"] == pytest.approx(0.7) and row["intervals"]["trained - simple"][0] > 0
    assert "the model adds .18 for kind from x" in merged.about["summary"]
    text = shown(merged)
    assert "0.880 ±0.050 ±0.0" in text and "mean of 3 runs" in text
    read = Report.load(merged.save(tmp_path / "r.json", figures=False))
    assert read.rows() == merged.rows()


def test_runs_that_differ_more_than_their_gain_are_not_called():
    merged = over_runs([report_of(a, i) for i, a in enumerate((0.65, 0.80, 0.95))])
    row = accuracy_of(merged)
    assert row["intervals"]["trained - simple"][0] > 0, "for these very runs it is clear"
    assert merged.about["summary"] == "the model is no better than simple features for kind from x."


def test_other_records_have_no_mean():
    with pytest.raises(AmodalError, match=r"different records \(fingerprint: f, g\)"):
        over_runs([report_of(0.8, 0), report_of(0.8, 1, fingerprint="g")])
    with pytest.raises(AmodalError, match="no report"):
        over_runs([])


def test_what_not_every_run_has_is_skipped():
    other = report_of(0.8, 1)
    other.results.append(Result("linear", {"label": "kind"}, []))
    other.simple.append(Result("linear", {"label": "kind"}, []))
    merged = over_runs([other, report_of(0.8, 0)])
    assert merged.skipped == {"linear (kind)": "not every run has it"}
    assert len(merged.results) == len(merged.simple) == 1


def test_many_models_are_evaluated_on_the_same_records():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype(np.float32)
    label = np.where(x[:, 0] > 0, "up", "down").tolist()
    records = opened({"cells": list(x), "level": label}, "level")
    encoders = [encoder_for(records, seed) for seed in range(3)]
    run = dict(label="level", protocols=["knn"], progress=False)
    merged = evaluate_many(encoders, records, baselines=encoders[::-1], **run)
    alone = [evaluate(e, records, **run)["knn"].value("cells", "accuracy") for e in encoders]
    row = accuracy_of(merged)
    assert row["runs"] == alone and row["value"] == pytest.approx(np.mean(alone))
    assert row["untrained"] == pytest.approx(np.mean(alone))
    assert merged.about["runs"] == 3
    with pytest.raises(AmodalError, match="3 models have 1 baselines"):
        evaluate_many(encoders, records, baselines=encoders[:1], **run)
