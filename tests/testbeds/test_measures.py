"""Metrics of single predictions agree with amodal's protocols and with scikit-learn."""

import numpy as np
import pytest
import testbeds
import torch
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score
from testbeds.measures import Piece, eligible, outcomes, score
from testbeds.testbed import Records, Task

from amodal.evaluate.protocols.retrieval import ranked
from amodal.stats.survival import concordance

DIGITS = testbeds.testbed("digits").open()
GLOBE = testbeds.testbed("globe").open()


def part(data, name="valid"):
    return Records(data, data.split(name))


def test_balanced_accuracy():
    records, rng = part(DIGITS), np.random.default_rng(0)
    truth = records.label("digit")
    guess = np.where(rng.random(len(truth)) < 0.7, truth, "3").astype(object)
    task = Task("digit", "linear", "balanced accuracy", "digit")
    found = score(task, [Piece(records, guess)])
    assert found.value == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found.low < found.value < found.high
    assert found.chance == pytest.approx(0.1) and found.resampled == "records"


def test_spearman_is_drawn_by_blocks_where_the_split_is():
    records, rng = part(GLOBE), np.random.default_rng(0)
    truth = records.label("latitude")
    guess = truth + 30 * rng.normal(size=len(truth))
    found = score(Task("l", "linear", "Spearman", "latitude"), [Piece(records, guess)], draws=50)
    assert found.value == pytest.approx(spearmanr(truth, guess).statistic)
    assert found.resampled == "block"


def test_recall_counts_equal_values_and_ties_as_the_protocol_does():
    task = Task("p", "retrieval", "R@10", None, ("relief", "places"))
    records = eligible(part(GLOBE), task)
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(len(records), 3)).round()) for _ in range(2))
    from testbeds.measures import content

    same = torch.from_numpy(content(records, "places"))
    a, b = (torch.nn.functional.normalize(x.float(), dim=1) for x in (a, b))
    expected = {row["metric"]: row for row in ranked(a, b, same)}["recall@10"]
    found = score(task, [Piece(records, (a @ b.T).numpy())])
    assert found.value == pytest.approx(expected["value"], abs=1e-6)
    assert found.chance == pytest.approx(expected["chance"])


def test_concordance_compares_within_a_piece():
    bed = testbeds.testbed("gse7390")
    if not bed.is_here:
        pytest.skip("gse7390 is not in the cache: amodal data gse7390 gets it")
    data, task = bed.open(), bed.primary
    records = eligible(part(data, "train"), task)
    time, event = outcomes(records, task)
    risk = -time + 2000 * np.random.default_rng(0).normal(size=len(time))
    whole = score(task, [Piece(records, risk)], draws=50)
    assert whole.value == pytest.approx(concordance(risk, time, event), abs=1e-5)
    half = np.arange(len(time)) < len(time) // 2
    shifted = [Piece(records.at(half), risk[half]), Piece(records.at(~half), risk[~half] + 1e6)]
    unshifted = [Piece(records.at(half), risk[half]), Piece(records.at(~half), risk[~half])]
    assert score(task, shifted, draws=2).value == score(task, unshifted, draws=2).value


def test_a_constant_prediction_is_chance():
    records = part(DIGITS)
    guess = np.full(len(records), "0", dtype=object)
    task = Task("digit", "linear", "balanced accuracy", "digit")
    assert score(task, [Piece(records, guess)], draws=2).value == pytest.approx(0.1)
