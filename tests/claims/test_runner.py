"""The runner, on pages that train nothing: pilot, plan, seeds, and what is written where."""

import importlib.util
import json
import sys

import amodal_claims as claims
import pytest

from amodal.core import AmodalError

EARLIER = '''"""A claim without a pilot."""
from amodal_claims import Comparison

CLAIM = "one more than the seed is more than the seed"
DATA = "digits"
SEEDS = 3
COMPARISONS = (Comparison("more", "a number", "more", "seed"), Comparison("the records are there", "a number", "records", 1.0))


def measure(seed, dataset):
    return {"seed": float(seed), "more": seed + 1.0 + 0.1 * seed, "records": float(len(dataset))}
'''
PILOTED = '''"""A claim whose control clears chance after 20 steps."""
from amodal_claims import Comparison

CLAIM = "the new one is better than the old one"
DATA = "digits"
PRIMARY = Comparison("new against old", "a number", "new", "old", interest=0.1)
SECONDARY = (Comparison("new against chance", "a number", "new", "chance"),)
FLOORS = ("chance",)
STEPS = (10, 20, 40)
NOISE = {noise}
CALLS = []


def floors(seed, dataset):
    return {{"chance": 0.4}}


def control(seed, dataset, steps):
    CALLS.append(("control", seed, steps))
    return {{"old": 0.03 * steps + NOISE * (seed % 2)}}


def measure(seed, dataset, steps):
    CALLS.append(("measure", seed, steps))
    found = control(0, dataset, steps)
    CALLS.pop()
    return found | {{"new": found["old"] + {effect} + {deviation} * (seed % 3 - 1)}}
'''


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Adds a page to `amodal_claims`, which has a ledger of its own here."""
    real = claims.names()
    added = []
    monkeypatch.setattr(claims, "names", lambda: [*real, *added])
    monkeypatch.setattr(claims, "LEDGER", tmp_path / "ledger")
    monkeypatch.chdir(tmp_path)

    def add(name, text):
        file = tmp_path / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"amodal_claims.{name}", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"amodal_claims.{name}", module)
        spec.loader.exec_module(module)
        added.append(name)
        return module

    return add


def piloted(noise=0.01, effect=0.2, deviation=0.01):
    return PILOTED.format(noise=noise, effect=effect, deviation=deviation)


def run(key, **options):
    return claims.claim(key, workers=1, **options)


def test_a_run_is_written_to_the_ledger(add, tmp_path):
    add("quick", EARLIER)
    record = run("quick")
    entry = json.loads((tmp_path / "ledger" / "quick.json").read_text(encoding="utf-8"))
    assert record.entry == entry and record.verdict == entry["verdict"] == "reproduced"
    assert [m["seed"] for m in entry["measured"]] == [0.0, 1.0, 2.0]
    assert entry["data"]["name"] == "digits" and entry["data"]["records"] == 2000
    assert entry["data"]["fingerprint"]
    assert claims.recorded("quick").table().row_count == 2
    assert not [*(tmp_path / "ledger").glob("journals/*")]


def test_a_run_with_other_seeds_leaves_the_ledger_alone(add, tmp_path):
    add("quick", EARLIER)
    run("quick", seeds=2)
    assert not (tmp_path / "ledger").exists()
    assert json.loads((tmp_path / "quick.claim.json").read_text(encoding="utf-8"))["seeds"] == 2


def test_one_seed_is_too_few(add):
    add("quick", EARLIER)
    with pytest.raises(AmodalError, match="at least 2 seeds"):
        run("quick", seeds=1)


def test_an_unknown_claim_offers_the_nearest():
    with pytest.raises(AmodalError, match="decur"):
        claims.claim("decurr")


def test_the_pilot_takes_the_fewest_steps_at_which_the_control_clears_its_floors(add, tmp_path):
    page = add("piloted", piloted())
    entry = run("piloted").entry
    assert [p["steps"] for p in entry["plan"]["pilots"]] == [10, 20]
    assert entry["plan"]["steps"] == 20 and not entry["plan"]["below"]
    assert page.CALLS[:4] == [("control", s, n) for n in (10, 20) for s in (1000, 1001)]
    assert page.CALLS[4:] == [("measure", s, 20) for s in range(5)]
    assert entry["seeds"] == entry["plan"]["seeds"] == 5
    assert (
        json.loads((tmp_path / "ledger/plans/piloted.json").read_text(encoding="utf-8"))
        == entry["plan"]
    )
    assert entry["verdict"] == "reproduced" and len(entry["findings"]) == 2


def test_a_control_below_its_floors_is_not_compared(add):
    page = add("piloted", piloted().replace('"chance": 0.4', '"chance": 9.0'))
    entry = run("piloted").entry
    assert entry["verdict"] == "no power" and "does not clear chance" in entry["reason"]
    assert [p["steps"] for p in entry["plan"]["pilots"]] == [10, 20, 40]
    assert not any(called[0] == "measure" for called in page.CALLS)
    assert entry["measured"] == entry["findings"] == [] and entry["seeds"] == 0


def test_seeds_are_added_where_differences_deviate_more_than_two_runs_of_the_control(add):
    page = add("piloted", piloted(effect=0.05, deviation=0.06))
    entry = run("piloted").entry
    assert entry["plan"]["seeds"] == 5 and 5 < entry["seeds"] <= 16
    seeds = {seed for function, seed, _ in page.CALLS if function == "measure"}
    assert seeds == {*range(entry["seeds"])}
    assert entry["detectable"] <= 0.06  # by the deviation of five seeds, then of ten


def test_no_seeds_are_added_where_none_would_do(add):
    add("piloted", piloted(effect=0.05, deviation=0.5))
    entry = run("piloted").entry
    assert entry["seeds"] == 5 and entry["verdict"] == "no power"
    assert "would be found" in entry["reason"]


def test_what_is_measured_is_stored_and_the_same_call_goes_on(add, monkeypatch):
    page = add("piloted", piloted())
    real = page.measure

    def dies(seed, dataset, steps):
        if seed == 3:
            raise KeyboardInterrupt
        return real(seed, dataset, steps)

    monkeypatch.setattr(page, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        run("piloted")
    done = len(page.CALLS)
    monkeypatch.setattr(page, "measure", real)
    assert run("piloted").entry["seeds"] == 5
    assert sorted(page.CALLS[done:]) == [("measure", s, 20) for s in (3, 4)]


def test_a_page_that_is_edited_starts_anew(add):
    from amodal_claims import _runner

    add("piloted", piloted())
    before = _runner.digest("piloted")
    add("edited", piloted(effect=0.3))
    assert _runner.digest("edited") != before


def test_a_seed_that_fails_says_so(add, monkeypatch):
    page = add("piloted", piloted())

    def fails(seed, dataset, steps):
        raise AmodalError("there is no such field")

    monkeypatch.setattr(page, "control", fails)
    with pytest.raises(AmodalError, match="piloted, seed 1000: there is no such field"):
        run("piloted")


def test_the_time_may_be_up(add):
    page = add("piloted", piloted())
    with pytest.raises(AmodalError, match="the same command goes on"):
        run("piloted", budget=1e-9)
    assert not page.CALLS
