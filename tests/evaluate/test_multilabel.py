"""The probe of a label with more than one value a record, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import amodal
from amodal import cli
from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate import Embedded
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.protocols.multilabel import multilabel
from amodal.stats.average_precision import MeanPrecision, MicroPrecision, average_precision

NAMES = ("forest", "water", "urban")


def made(count, seed, separator=";"):
    """Vectors of which three directions say which values a record has, and noise."""
    rng = np.random.default_rng(seed)
    has = rng.random((count, 3)) < (0.5, 0.3, 0.2)
    x = has.astype(np.float32) * 2 + rng.normal(size=(count, 3)).astype(np.float32)
    x = np.concatenate([x, rng.normal(size=(count, 5)).astype(np.float32)], 1)
    labels = np.array(
        [separator.join(n for n, h in zip(NAMES, row) if h) or "bare" for row in has], dtype=object
    )
    column = Column(torch.from_numpy(x), torch.arange(count))
    z = Embeddings({"image": column}, count)
    return Embedded([str(i) for i in range(count)], z, z, {"cover": labels}), has


def test_average_precision_is_that_of_scikit_learn_for_every_draw():
    rng = np.random.default_rng(0)
    for ties in (False, True):
        score = rng.normal(size=60)
        score = np.round(score) if ties else score
        wanted = rng.random(60) < 0.3
        weight = rng.integers(0, 4, (20, 60))
        found = average_precision(score, wanted, weight)
        expected = [average_precision_score(wanted, score, sample_weight=w) for w in weight]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert np.isnan(average_precision(score, np.zeros(60, bool), weight)).all()
    truth, scores = rng.random((60, 4)) < 0.4, rng.normal(size=(60, 4))
    once = np.ones((1, 60))
    for kind, average in ((MeanPrecision, "macro"), (MicroPrecision, "micro")):
        value = kind(np.arange(60), truth, scores).statistic(once)[0]
        assert value == pytest.approx(average_precision_score(truth, scores, average=average))


def test_values_are_learnt_each_by_itself():
    (train, _), (test, has) = made(400, 0), made(200, 1)
    result = multilabel(train, test, label="cover")
    assert result.value("image", "mAP") > 0.75 and result.value("image", "micro AP") > 0.75
    row = result.rows[0]
    bare = ~has.any(1)
    assert row["chance"] == pytest.approx(np.append(has.mean(0), bare.mean()).mean())
    assert result.spec["values"] == 4 and result.spec["left out"] == []
    # one value that only the test has cannot be learnt, one that is everywhere is no question
    test.labels["cover"][0] = "other;forest"
    assert multilabel(train, test, label="cover").spec["values"] == 4
    drawn = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    noise = Embeddings({"image": Column(drawn, torch.arange(400))}, 400)
    blind = Embedded(train.keys, noise, noise, train.labels)
    assert multilabel(blind, test, label="cover").value("image", "mAP") < 0.55


def test_a_share_of_the_records_and_records_without_a_label():
    (train, _), (test, _) = made(400, 0), made(200, 1)
    few = multilabel(train, test, label="cover", share=0.1, seed=3)
    whole = multilabel(train, test, label="cover")
    assert 0.5 < few.value("image", "mAP") < whole.value("image", "mAP")
    train.labels["cover"][::2] = None
    test.labels["cover"][:50] = None
    assert multilabel(train, test, label="cover").rows[0]["n"] == 150


def test_what_is_no_such_label():
    (train, _), (test, _) = made(40, 0, "|"), made(20, 1, "|")
    with pytest.raises(
        NotApplicable, match="no record has more than one value of 'cover' with ';'"
    ):
        multilabel(train, test, label="cover")
    assert multilabel(train, test, label="cover", separator="|").rows
    for part in (train, test):
        part.labels["cover"][:] = "forest|lake"
    with pytest.raises(NotApplicable, match="no value of 'cover' is in .* not all: forest, lake"):
        multilabel(train, test, label="cover", separator="|")
    with pytest.raises(AmodalError, match="share"):
        multilabel(train, test, label="cover", share=0)
    with pytest.raises(AmodalError, match="separator"):
        multilabel(train, test, label="cover", separator="")
    numbers = Embedded(train.keys, train.features, train.features, {"cover": np.arange(40.0)})
    with pytest.raises(NotApplicable, match="is a number"):
        multilabel(numbers, numbers, label="cover")


def test_the_command_shows_it_beside_simple_features_with_intervals(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = ["text,tags"]
    for i in range(240):
        has = rng.random(2) < 0.5
        written = has ^ (rng.random(2) < 0.15)
        words = (
            ["tree"] * (3 * int(written[0]))
            + ["lake"] * (3 * int(written[1]))
            + [f"w{rng.integers(50)}" for _ in range(4)]
        )
        tags = ";".join(n for n, h in zip(("forest", "water"), has) if h) or "bare"
        lines.append(f"a place {i} with {' '.join(rng.permutation(words))},{tags}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "places.csv").write_text("\n".join(lines), encoding="utf-8")
    data, run = str(tmp_path / "data" / "places.csv"), str(tmp_path / "run")
    common = ["--size", "nano", "--steps", "2", "--batch-size", "16"]
    cli.main(["pretrain", "simclr", "--data", data, "--out", run, *common])
    cli.main(["evaluate", run, "--data", data, "--label", "tags", "--protocols", "multilabel"])
    printed = capsys.readouterr().out
    assert "multilabel" in printed and "mAP" in printed
    report = amodal.load(run).evaluate(data, label="tags", protocols=["multilabel"])
    row = next(r for r in report.rows() if r["metric"] == "mAP")
    assert row["simple"] > 0.7, row
    assert "trained" in row["intervals"], row
