"""`python -m testbeds compare`: its page, and what counts as clearly learnt."""

import json
from dataclasses import replace

import pytest
from testbeds.commands import compare
from testbeds.testbed import Task, Testbed

from amodal.core import AmodalError
from amodal.studies.comparison import Comparison, Entry

TASKS = (
    Task("b by a", "retrieval", "R@10", None, ("a", "b")),
    Task("a by b", "retrieval", "R@10", None, ("b", "a")),
    Task("b by c", "retrieval", "R@10", None, ("c", "b")),
    Task("kind from a", "linear", "balanced accuracy", "kind", ("a",)),
)
BED = Testbed("digits", "Digits", "digits", ("a", "b", "c"), TASKS, 10, 8, "nano", "")


def result(choice="clip", kind="learnt", value=0.9, spread=0.02, **changes):
    entries = [
        {"name": "clip", "kind": "candidate", "value": value, "half": spread},
        {"name": "simple features", "kind": "simple", "value": 0.7, "half": 0.02},
        {"name": "frozen encoders", "kind": "frozen", "value": 0.8, "half": 0.02},
        {"name": "closed form on frozen encoders", "kind": "candidate", "value": 0.8, "half": 0.1},
        {"name": "mae", "kind": "candidate", "value": None, "half": float("nan")},
        {"name": "untrained encoder", "kind": "untrained", "value": 0.99, "half": 0.01},
    ]
    rest = {"testbed": "digits", "title": "recall@10 between fields", "features": "alone"}
    rest |= {"test": 0.75, "half": 0.04, "budget_seconds": 360.0}
    return {"choice": choice, "kind": kind, "entries": entries, **rest} | changes


def test_clearly_learnt_is_above_simple_and_frozen_by_both_intervals():
    assert not compare.is_clear(result()), "the closed form is within its interval"
    assert compare.is_clear(result(value=0.91, spread=0.005))
    assert not compare.is_clear(result(value=0.91, spread=0.05))
    assert not compare.is_clear(result("simple features", "simple"))
    assert not compare.is_clear(result("closed form on frozen encoders", "frozen"))


def test_clearly_learnt_is_above_each_rival_on_the_test_part():
    line = {"name": "simple features", "value": 0.7, "difference": 0.05, "interval": [0.01, 0.09]}
    assert compare.is_clear(result(against=[line])), "whatever the validation part says"
    assert not compare.is_clear(result(value=0.99, against=[line | {"interval": [-0.01, 0.1]}]))
    assert not compare.is_clear(result(against=[line, line | {"interval": None}]))
    assert not compare.is_clear(result("simple features", "simple", against=[line]))


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (Entry("clip", value=0.5), "learnt"),
        (Entry("closed form on frozen encoders", value=0.5), "frozen"),
        (Entry("linear heads on frozen encoders", value=0.5), "learnt"),
        (Entry("simple features", "simple", 0.5), "simple"),
    ],
)
def test_a_closed_form_between_frozen_encoders_is_frozen(entry, kind):
    assert compare.kind_of(entry) == kind


def test_both_directions_of_a_retrieval_are_what_compare_asks():
    assert [task.name for task in compare.same_tasks(BED)] == ["b by a", "a by b"]


class Measured:
    """Yardsticks without files."""

    def __init__(self, bed, part):
        assert part == "test", "the validation part has chosen"

    def of(self, task, method):
        return {"b by a": 0.6, "a by b": 0.7}[task]

    def best_peer(self, task):
        return {"b by a": ("CCA tuned", 0.78), "a by b": ("ridge defaults", 0.8)}[task]


class NoneYet(Measured):
    def of(self, task, method):
        raise AmodalError("not measured")


def test_the_page_counts_what_is_level_with_the_best(monkeypatch):
    monkeypatch.setattr(compare.testbeds, "testbed", lambda name: BED)
    monkeypatch.setattr(compare.testbeds, "names", lambda: ["digits", "wine"])
    monkeypatch.setattr(compare, "Yardsticks", Measured)
    page = compare.page([result()])  # .75 + .04 reaches .79, the mean of the peers
    assert "On 1 of 1 testbeds what" in page and "On 0 of 1 the choice" in page
    row = "| 0.750 ±0.040 |  | 0.650 | 0.790 (CCA tuned / ridge defaults) | clip 0.900 |"
    assert row in page and "Each had 6 minutes" in page and "Not measured yet: `wine`" in page
    line = {"name": "simple features", "value": 0.7, "difference": 0.05, "interval": [0.01, 0.09]}
    assert "| 0.750 ±0.040 | +0.050 (+0.010 to +0.090) |" in compare.page([result(against=[line])])
    assert "| boosted trees on clip |" in compare.page([result(protocol="boosting")])
    assert "On 0 of 1 testbeds what" in compare.page([result(half=0.03)])
    other = result(title="kind (accuracy, linear)")
    assert "On 0 of 0 testbeds" in compare.page([other]), "another metric is not compared"
    monkeypatch.setattr(compare, "Yardsticks", NoneYet)
    assert "On 0 of 0 testbeds" in compare.page([result()])


def test_a_comparison_goes_on_until_its_winner_is_tested(monkeypatch, tmp_path):
    """Time that other work takes does not end a measurement."""
    calls = []

    def run(dataset, label, *, task, budget, frozen, **options):
        calls.append((label, task, budget, frozen))
        about = {"parts": {"valid": 100, "test": 400}, "data": "digits"}
        entries = [Entry("simclr", value=0.9, half=0.04), Entry("chance", "chance", 0.1, 0.0)]
        if len(calls) > 1:
            about |= {"run": "run", "test": 0.8}
        return Comparison("digit (balanced accuracy, linear)", entries, {}, about, tmp_path)

    monkeypatch.setattr(compare, "run", run)
    assert (
        compare.main(
            ["digits", "--budget", "90s", "--out", str(tmp_path), "--page", str(tmp_path / "p.md")]
        )
        == 0
    )
    assert calls == [("digit", "auto", 90.0, "auto")] * 2
    stored = json.loads((tmp_path / "digits.json").read_text(encoding="utf-8"))
    assert stored["test"] == 0.8 and stored["half"] == pytest.approx(0.02)
    assert (stored["kind"], stored["choice"]) == ("learnt", "simclr")
    compare.main(["digits", "--out", str(tmp_path), "--page", str(tmp_path / "p.md")])
    assert len(calls) == 2, "what is stored is not measured anew"


def test_accuracy_is_not_compared_with_balanced_accuracy(monkeypatch):
    bed = replace(BED, tasks=(Task("kind from a", "linear", "accuracy", "kind", ("a",)),))

    class Found(Measured):
        def of(self, task, method):
            return 0.5

        def best_peer(self, task):
            return "SVM tuned", 0.6

    monkeypatch.setattr(compare, "Yardsticks", Found)
    same = result(title="kind (accuracy, linear)")
    assert compare.yardsticks_of(bed, same) == (0.5, ("SVM tuned", 0.6))
    other = result(title="kind (balanced accuracy, linear)")
    assert compare.yardsticks_of(bed, other) == (None, None)
