"""Every claim says what it claims before it measures, and the ledger holds what came out."""

import inspect
import json

import amodal_claims as claims
import pytest
from amodal_claims import Comparison, _power, _runner

from amodal import methods
from amodal.data import bundled, sets

KEYS = set(
    "key claim verdict findings measured seeds data seconds date amodal versions machine".split()
)
OF_A_FINDING = {"what", "metric", "this", "against", "effect", "interval", "verdict"}
ENTRIES = sorted(claims.LEDGER.glob("*.json"))


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("key", claims.names())
def test_a_page_fixes_its_comparison_beforehand(key):
    page = claims.page(key)
    assert page.__doc__ and len(page.CLAIM.split()) > 10
    assert page.DATA in (*bundled.NAMES, *sets.names())
    every = claims.comparisons(page)
    assert every and all(isinstance(c, Comparison) and c.what and c.metric for c in every)
    assert len({(c.what, c.metric) for c in every}) == len(every)
    if not claims.has_pilot(page):
        assert page.SEEDS >= 5 and parameters(page.measure) == ["seed", "dataset"]
        return
    assert page.PRIMARY.interest > 0 and page.FLOORS
    assert list(page.STEPS) == sorted(set(page.STEPS))
    assert parameters(page.measure) == parameters(page.control) == ["seed", "dataset", "steps"]
    assert parameters(page.floors) == ["seed", "dataset"]
    assert isinstance(getattr(page, "CONTROL", page.PRIMARY.against), str), "CONTROL: what learns?"


@pytest.mark.parametrize("key", sorted(set(claims.names()) & set(methods.names())))
def test_a_page_of_a_method_names_its_paper(key):
    doc = claims.page(key).__doc__
    numbers = [
        w.strip(".,():") for w in methods.page(key).__doc__.split() if w.startswith("arXiv:")
    ]
    assert numbers[0] in doc


@pytest.mark.parametrize("file", ENTRIES, ids=[file.stem for file in ENTRIES])
def test_an_entry_of_the_ledger_is_what_its_page_says(file):
    entry, page = json.loads(file.read_text(encoding="utf-8")), claims.page(file.stem)
    assert KEYS <= entry.keys()
    assert entry["key"] == file.stem and entry["seeds"] == len(entry["measured"])
    assert entry["claim"] == page.CLAIM
    assert claims.has_pilot(page) == ("plan" in entry)
    below = "plan" in entry and bool(entry["plan"]["below"])
    assert [(f["what"], f["metric"]) for f in entry["findings"]] == [
        (c.what, c.metric) for c in claims.comparisons(page) if not below
    ]
    assert all(
        f.keys() == OF_A_FINDING and f["interval"][0] <= f["effect"] <= f["interval"][1]
        for f in entry["findings"]
    )


@pytest.mark.parametrize("file", ENTRIES, ids=[file.stem for file in ENTRIES])
def test_the_verdicts_follow_from_the_measurements(file):
    entry, page = json.loads(file.read_text(encoding="utf-8")), claims.page(file.stem)
    findings = []
    for comparison, written in zip(claims.comparisons(page), entry["findings"]):
        findings.append(claims.judge(comparison, entry["measured"]))
        assert findings[-1].verdict == written["verdict"]
        assert round(findings[-1].effect, 5) == written["effect"]
    if not claims.has_pilot(page):
        assert entry["seeds"] == page.SEEDS
        assert entry["verdict"] == claims.verdict_of_all(findings)
        return
    pilots = [_power.Pilot(p["steps"], p["measured"]) for p in entry["plan"]["pilots"]]
    control = _runner.control_of(page)
    planned = _power.plan(page.PRIMARY.interest, control, page.FLOORS, pilots)
    assert planned.as_dict() == entry["plan"]
    if planned.below:
        assert entry["verdict"] == "no power"
    else:
        judged = claims.decide(page.PRIMARY, control, page.FLOORS, entry["measured"])
        assert (judged.verdict, judged.reason) == (entry["verdict"], entry["reason"])


def test_the_record_of_a_claim_that_never_ran_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "LEDGER", tmp_path)
    assert claims.recorded("clip") is None
