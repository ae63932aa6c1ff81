"""The winner on the test part: its estimator, its rivals, and paired differences."""

import numpy as np
import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.data import Label
from amodal.data import open as open_data
from amodal.evaluate import Embedded
from amodal.evaluate.protocols.linear import linear
from amodal.nn.encoder import Encoder
from amodal.stats.paired_bootstrap import Determination, Mean
from amodal.studies import Candidate, Setup
from amodal.studies.comparison import Comparison, Entry
from amodal.studies.final_test import Finalist, differences, rivals, with_trees
from amodal.studies.questions import SimpleFeatures, error_of
from amodal.studies.task import task_of


class Rings:
    """Vectors in which no line separates two classes: those inside of a ring and those outside."""

    def __init__(self, n=400, seed=0):
        rng = np.random.default_rng(seed)
        self.inside = rng.random(n) < 0.5
        angle, radius = rng.uniform(0, 2 * np.pi, n), np.where(self.inside, 1.0, 2.0)
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        self.x = (x + rng.normal(0, 0.1, (n, 2))).astype(np.float32)

    def dataset(self):
        return open_data({"a": list(self.x), "kind": np.where(self.inside, "in", "out").tolist()})


def test_a_winner_is_measured_by_trees_where_these_are_better():
    data = Rings().dataset()
    data.labels["kind"] = Label()
    data = data.select(["a"])
    torch.manual_seed(0)
    encoder = Encoder(data.fields, size="nano").eval()
    about = task_of(data, "kind")
    finalist = Finalist(Candidate("simclr"), encoder, Setup(data, about.questions))
    linear = Entry("simclr", value=0.5, half=0.1)
    best = Entry("simple features", "simple", 0.6, 0.1)
    found = Comparison("kind", [best, linear], about={"frozen": {}})
    better = with_trees(found, linear, finalist, about)
    assert better.protocol == "boosting" and better.value > 0.8
    assert found.entries == [better, best] and found.winner is better
    assert found.sentence.startswith("take boosted trees on simclr")

    high = Entry("simclr", value=1.0, half=0.1)
    other = Comparison("kind", [high, best], about={"frozen": {}})
    assert with_trees(other, high, finalist, about) is high and other.entries == [high, best]


def test_rivals_are_the_best_of_each_kind_that_needs_no_training():
    entries = [
        Entry("clip", value=0.9),
        Entry("closed form on frozen encoders", value=0.7),
        Entry("boosted trees on simple features", "simple", 0.6),
        Entry("simple features", "simple", 0.5),
        Entry("frozen encoders", "frozen", 0.4),
        Entry("untrained encoder", "untrained", 0.8),
        Entry("broken", value=None),
    ]
    found = Comparison("kind", entries)
    names = [e.name for e in rivals(found, entries[0])]
    assert names == ["closed form on frozen encoders", "boosted trees on simple features"]
    names = [e.name for e in rivals(found, entries[2])]
    assert names == ["closed form on frozen encoders", "simple features"]


def rows_of(digits, scale):
    """Accuracy of a probe on vectors with noise, with outcomes of single records."""
    sides = []
    for part in ("train", "test"):
        rows = digits.split(part)
        labels = digits.label("digit")[rows]
        x = np.eye(10)[labels.astype(int)] + np.random.default_rng(len(rows)).normal(
            0, scale, (len(rows), 10)
        )
        column = Column(torch.from_numpy(x).float(), torch.arange(len(rows)))
        made = Embeddings({"zer": column}, len(rows))
        keys = [digits.keys[i] for i in rows]
        sides.append(Embedded(keys, made, made, labels={"digit": labels}))
    result = linear(*sides, label="digit")
    at = [row["metric"] for row in result.rows].index("accuracy")
    return [result.rows[at] | {"outcome": result.outcomes[at]}]


def test_differences_on_the_test_part_are_of_the_same_records(digits):
    setup = Setup(digits, task_of(digits, "digit").questions)
    good, bad = rows_of(digits, 0.3), rows_of(digits, 0.8)
    same, worse = differences(good, [("same", good), ("worse", bad)], setup)
    assert same["difference"] == 0 and same["interval"] == [0, 0]
    low, high = worse["interval"]
    gap = good[0]["value"] - bad[0]["value"]
    assert worse["difference"] == pytest.approx(gap) and 0 < low < gap < high
    assert worse["value"] == bad[0]["value"]
    # two independent values of so few records would have a wider interval
    apart = 1.96 * np.hypot(
        *(np.sqrt(r[0]["value"] * (1 - r[0]["value"]) / 120) for r in (good, bad))
    )
    assert high - low < 2.2 * apart
    (unknown,) = differences([{"value": 0.5}], [("other", bad)], setup)
    assert unknown["interval"] is None and unknown["difference"] == 0.5 - bad[0]["value"]


def test_the_sentence_on_the_test_part():
    line = {"name": "simple features", "value": 0.8, "difference": 0.05, "interval": [0.01, 0.09]}
    other = {"name": "frozen encoders", "value": 0.75, "difference": 0.1, "interval": None}
    found = Comparison("kind", [], about={"test": 0.85, "against": [line, other]})
    assert found.on_test == (
        "0.850 on the test part, +0.050 (0.010 to 0.090) against simple features (0.800) and "
        "+0.100 against frozen encoders (0.750)"
    )
    assert Comparison("kind", []).on_test == ""


def test_questions_of_different_records_have_one_interval():
    rng = np.random.default_rng(0)
    whole, some = np.arange(300), np.flatnonzero(rng.random(300) < 0.7)
    first, second = (Mean(who, rng.random(len(who)).round()) for who in (whole, some))
    found = differences(
        [{"value": float(o.value.mean()), "outcome": o} for o in (first, second)],
        [("other", [{"value": 0.0, "outcome": Mean(o.who, 0 * o.value)} for o in (first, second)])],
        Setup(Parts(300), (), label_free=True),
    )
    (low, high), middle = found[0]["interval"], found[0]["difference"]
    assert low < middle < high
    # both means are over draws of the same records: as one mean of the records' shares
    share = np.zeros(300)
    share += first.value / 2 / len(whole)
    share[some] += second.value / 2 / len(some)
    expected = 2 * 1.96 * 300**0.5 * np.std(share)
    assert high - low == pytest.approx(expected, rel=0.35)


class Parts:
    """A dataset of which only the split is asked."""

    def __init__(self, records):
        self.records = records
        self.schema = type("S", (), {"split_by": ""})()

    def split(self, part):
        return np.arange(self.records)


def test_a_space_that_cannot_be_joined_is_measured_alone(monkeypatch):
    data = Rings().dataset()
    data.labels["kind"] = Label()
    data = data.select(["a"])
    torch.manual_seed(0)
    encoder = Encoder(data.fields, size="nano", similarity="abs_cosine").eval()
    about = task_of(data, "kind")
    setup = Setup(data, about.questions, simple=SimpleFeatures())
    finalist = Finalist(Candidate("gram"), encoder, setup)
    failed, line = Entry("mae", value=None), Entry("gram", value=0.5, half=0.3)
    found = Comparison("kind", [line, failed], about={"frozen": {}})
    better = with_trees(found, line, finalist, about)
    assert better.features == "alone" and better.value > 0.8 and better.half == 0.3
    assert found.entries == [better, failed]


def test_the_error_of_r2_is_that_of_its_outcomes():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    guess = truth + rng.normal(size=200)
    outcome = Determination(np.arange(200), truth, guess)
    spread = np.square(truth - truth.mean()).sum()
    value = 1 - np.square(truth - guess).sum() / spread
    row = {"metric": "R2", "value": float(value), "chance": 0.0, "n": 200, "outcome": outcome}
    draws = []
    for _ in range(500):
        i = rng.integers(200, size=200)
        t, g = truth[i], guess[i]
        draws.append(1 - np.square(t - g).sum() / np.square(t - t.mean()).sum())
    assert error_of(row) == pytest.approx(np.std(draws), rel=0.2)
    assert error_of({k: v for k, v in row.items() if k != "outcome"}) > 0
