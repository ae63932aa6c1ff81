"""Calibration of probabilities against loops and scikit-learn, and in the linear probe."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from amodal.evaluate.protocols.linear import linear
from amodal.stats.calibration import brier, calibration_error
from tests.evaluate.made import made


def drawn(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), n), rng.integers(0, classes, n)


def test_brier_is_scikit_learns_and_counts_a_strange_class_as_wrong():
    p, truth = drawn(50, 2)
    assert brier(p, truth) == pytest.approx(2 * brier_score_loss(truth, p[:, 1]))
    p, truth = drawn(30, 4)
    truth[:5] = -1
    slow = [
        sum((q - (k == t)) ** 2 for k, q in enumerate(row)) + (t < 0) for row, t in zip(p, truth)
    ]
    assert brier(p, truth) == pytest.approx(np.mean(slow))


def test_the_error_is_the_gap_in_each_bin():
    p, truth = drawn(200, 3)
    gap = 0.0
    for b in range(15):
        inside = [i for i in range(200) if b / 15 < max(p[i]) <= (b + 1) / 15]
        if inside:
            right = np.mean([np.argmax(p[i]) == truth[i] for i in inside])
            gap += len(inside) / 200 * abs(right - np.mean([max(p[i]) for i in inside]))
    assert calibration_error(p, truth) == pytest.approx(gap)
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert (
        calibration_error(sure, np.array([0, 1, 2, 0])) == 0
        and calibration_error(sure, np.array([1, 2, 0, 1])) == 1
    )


def test_the_linear_probe_says_how_far_it_can_be_taken_at_its_word():
    found = linear(made(), made(seed=1), label="kind")
    for metric, most in (("Brier", 0.5), ("calibration error", 0.2)):
        row = next(r for r in found.rows if r["metric"] == metric and r["source"] == "image")
        assert 0 < row["value"] < most and np.isfinite(row["chance"])
    assert found.value("image", "Brier") < next(
        r["chance"] for r in found.rows if r["metric"] == "Brier"
    )
    few = linear(made(), made(seed=1), label="kind", few=3)
    assert all("interval" in r for r in few.rows) and "Brier" in {r["metric"] for r in few.rows}
    assert {r["metric"] for r in linear(made(), made(seed=1), label="size").rows} == {
        "R2",
        "Spearman",
    }
