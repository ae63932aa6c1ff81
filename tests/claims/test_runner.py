"""The runner, on a page that measures nothing: seeds in their order, the record written where it
belongs."""

import importlib.util
import json
import sys

import amodal_claims as claims
import pytest

from amodal.core import AmodalError

PAGE = '''"""A claim that is quick to test."""
from amodal_claims import Comparison

CLAIM = "one more than the seed is more than the seed"
DATA = "digits"
SEEDS = 3
COMPARISONS = (Comparison("more", "a number", "more", "seed"), Comparison("the records are there", "a number", "records", 1.0))


def measure(seed, dataset):
    return {"seed": float(seed), "more": seed + 1.0 + 0.1 * seed, "records": float(len(dataset))}
'''


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """One more page in `amodal_claims`, and a ledger of its own."""
    file = tmp_path / "quick_claim.py"
    file.write_text(PAGE)
    spec = importlib.util.spec_from_file_location("amodal_claims.quick", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "amodal_claims.quick", module)
    real = claims.names
    monkeypatch.setattr(claims, "names", lambda: [*real(), "quick"])
    monkeypatch.setattr(claims.concurrent.futures, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(claims, "LEDGER", tmp_path / "ledger")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Here:
    """Runs at once and in this process, where the page is known."""

    def __init__(self, workers, **_):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, run, *arguments):
        value = run(*arguments)
        return type("Done", (), {"result": lambda self: value})()


def test_a_run_is_written_to_the_ledger(quick, capsys):
    record = claims.claim("quick")
    entry = json.loads((quick / "ledger" / "quick.json").read_text())
    assert record.entry == entry and record.verdict == entry["verdict"] == "reproduced"
    assert [m["seed"] for m in entry["measured"]] == [0.0, 1.0, 2.0]
    assert (
        entry["data"]["name"] == "digits"
        and entry["data"]["records"] == 2000
        and entry["data"]["fingerprint"]
    )
    assert "seed 2: seed 2.000, more 3.200" in capsys.readouterr().out
    assert claims.recorded("quick").table().row_count == 2


def test_a_run_with_other_seeds_leaves_the_ledger_alone(quick):
    claims.claim("quick", seeds=2)
    assert not (quick / "ledger" / "quick.json").exists()
    assert json.loads((quick / "quick.claim.json").read_text())["seeds"] == 2


def test_one_seed_is_too_few(quick):
    with pytest.raises(AmodalError, match="at least 2 seeds"):
        claims.claim("quick", seeds=1)


def test_an_unknown_claim_offers_the_nearest():
    with pytest.raises(AmodalError, match="decur"):
        claims.claim("decurr")
