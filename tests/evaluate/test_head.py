"""The protocol that measures a run's own head."""

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.adapt import adapt
from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate import Embedded
from amodal.evaluate.protocols.head import head as head_protocol
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.stats.calibration import brier, calibration_error
from amodal.stats.survival import concordance


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    digits = data.open("digits").select(["fou", "zer"])
    amodal.pretrain("clip", digits, folder / "run", size="nano", steps=2, batch=32, progress=False)
    adapt(
        folder / "run",
        digits,
        folder / "adapted",
        label="digit",
        how="full",
        steps=20,
        batch=64,
        progress=False,
    )
    return digits, folder


def test_it_measures_what_predict_says(run):
    digits, folder = run
    model = amodal.load(folder / "adapted")
    report = model.evaluate(digits, protocols=["head"], label="digit")
    found = model.predict(digits)
    from amodal.evaluate.held_out import parts

    _, test, _ = parts(model, digits)
    guess, truth = np.array(found["digit"])[test], digits.label("digit")[test]
    assert report["head"].value("fused", "accuracy", target="digit") == pytest.approx(
        np.mean(guess == truth)
    )
    rows = {row["source"]: row for row in report["head"].rows if row["metric"] == "accuracy"}
    assert set(rows) == {"fused", "fou", "zer"} and rows["fou"]["n"] == len(test)
    p = np.stack([np.array(found[f"digit={c}"])[test] for c in "0123456789"], 1).astype(float)
    assert report["head"].value("fused", "Brier", target="digit") == pytest.approx(
        brier(p, truth.astype(int)), abs=1e-5
    )


def test_a_run_without_a_head_has_nothing_to_measure(run):
    digits, folder = run
    with pytest.raises(AmodalError, match="amodal adapt"):
        amodal.load(folder / "run").evaluate(digits, protocols=["head"], label="digit")


def test_amounts_and_times_have_their_own_measures():
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    z = Embeddings({"x": Column(x, torch.arange(50))}, 50)
    head = SupervisedHead(
        [Target("size", "amount", mean=1.0, std=2.0), Target("days,dead", "survival", event=0)],
        ["x"],
        3,
    )
    out = head(z).values.detach().numpy()
    dead = np.array(["no", "yes"], dtype=object)[(np.arange(50) % 3 > 0).astype(int)]
    labels = {"size": out[:, 0] * 2 + 1.0, "days": -out[:, 1].astype(float) + 10, "dead": dead}
    test = Embedded([f"{i}" for i in range(50)], z, z, labels)
    found = head_protocol(test, test, head=head)
    assert found.value("fused", "R2", target="size") == pytest.approx(1)
    expected = concordance(out[:, 1], labels["days"], dead == "no")
    assert (
        found.value("fused", "concordance", target="days,dead") == pytest.approx(expected)
        and expected == 1
    )


def test_calibration_against_its_definition():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200)
    truth = rng.integers(0, 3, 200)
    total = 0.0
    for k in range(15):
        inside = [i for i in range(200) if k / 15 <= p[i].max() < (k + 1) / 15]
        if inside:
            right = np.mean([p[i].argmax() == truth[i] for i in inside])
            total += len(inside) / 200 * abs(right - np.mean([p[i].max() for i in inside]))
    assert calibration_error(p, truth) == pytest.approx(total)
    assert brier(p, truth) == pytest.approx(
        np.mean([sum((p[i, c] - (c == truth[i])) ** 2 for c in range(3)) for i in range(200)])
    )


def test_records_of_classes_that_the_head_never_learnt_are_left_out():
    z = Embeddings({"x": Column(torch.eye(4), torch.arange(4))}, 4)
    head = SupervisedHead([Target("kind", "classes", ("a", "b"))], ["x"], 4)
    with torch.no_grad():
        head.net[0].weight.copy_(torch.tensor([[9.0, 0, 9, 0], [0, 9, 0, 9]]))
        head.net[0].bias.zero_()
    test = Embedded(
        [f"{i}" for i in range(4)], z, z, {"kind": np.array(["a", "b", "b", "new"], dtype=object)}
    )
    found = head_protocol(test, test, head=head)
    assert found.value("fused", "accuracy", target="kind") == pytest.approx(2 / 3)
    assert found.value("fused", "balanced accuracy", target="kind") == pytest.approx(0.75)
    assert found.rows[0]["n"] == 3
