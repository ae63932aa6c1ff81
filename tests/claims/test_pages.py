"""Every claim says what it claims before it measures, and the ledger holds what came out."""

import inspect
import json

import amodal_claims as claims
import pytest
from amodal_claims import Comparison

from amodal import methods
from amodal.data import bundled, sets

KEYS = set(
    "key claim verdict findings measured seeds data seconds date amodal versions machine".split()
)
OF_A_FINDING = {"what", "metric", "this", "against", "effect", "interval", "verdict"}
ENTRIES = sorted(claims.LEDGER.glob("*.json"))


@pytest.mark.parametrize("key", claims.names())
def test_a_page_fixes_its_comparison_beforehand(key):
    page = claims.page(key)
    assert page.__doc__ and len(page.CLAIM.split()) > 10
    assert page.DATA in (*bundled.NAMES, *sets.names())
    assert page.SEEDS >= 5
    assert page.COMPARISONS and all(
        isinstance(c, Comparison) and c.what and c.metric for c in page.COMPARISONS
    )
    assert list(inspect.signature(page.measure).parameters) == ["seed", "dataset"]
    assert len({(c.what, c.metric) for c in page.COMPARISONS}) == len(page.COMPARISONS)


@pytest.mark.parametrize("key", sorted(set(claims.names()) & set(methods.names())))
def test_a_page_of_a_method_names_its_paper(key):
    doc = claims.page(key).__doc__
    numbers = [
        w.strip(".,():") for w in methods.page(key).__doc__.split() if w.startswith("arXiv:")
    ]
    assert numbers[0] in doc


@pytest.mark.parametrize("file", ENTRIES, ids=[file.stem for file in ENTRIES])
def test_an_entry_of_the_ledger_is_what_its_page_says(file):
    entry, page = json.loads(file.read_text()), claims.page(file.stem)
    assert KEYS <= entry.keys()
    assert entry["key"] == file.stem and entry["seeds"] == page.SEEDS == len(entry["measured"])
    assert entry["claim"] == page.CLAIM
    assert [(f["what"], f["metric"]) for f in entry["findings"]] == [
        (c.what, c.metric) for c in page.COMPARISONS
    ]
    assert all(
        f.keys() == OF_A_FINDING and f["interval"][0] <= f["effect"] <= f["interval"][1]
        for f in entry["findings"]
    )
    verdicts = {f["verdict"] for f in entry["findings"]}
    assert verdicts <= set(claims.VERDICTS)
    assert entry["verdict"] == next(v for v in reversed(claims.VERDICTS) if v in verdicts)


@pytest.mark.parametrize("file", ENTRIES, ids=[file.stem for file in ENTRIES])
def test_the_verdicts_follow_from_the_measurements(file):
    entry, page = json.loads(file.read_text()), claims.page(file.stem)
    for comparison, written in zip(page.COMPARISONS, entry["findings"]):
        found = claims.judge(comparison, entry["measured"])
        assert found.verdict == written["verdict"] and round(found.effect, 5) == written["effect"]


def test_the_record_of_a_claim_that_never_ran_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "LEDGER", tmp_path)
    assert claims.recorded("clip") is None
