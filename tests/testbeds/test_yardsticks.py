"""The command measures what is missing, and a peer that cannot run says why."""

import json
from dataclasses import replace

import numpy as np
import pytest
import testbeds
from testbeds import Peer, Task, budgets, yardsticks
from testbeds.__main__ import main
from testbeds.peers.estimators import logistic

BED = replace(
    testbeds.testbed("digits"),
    name="small",
    tasks=(Task("digit from Fourier", "linear", "balanced accuracy", "digit", ("fou",)),),
    peers=(logistic(),),
)


@pytest.fixture
def one_page(monkeypatch):
    monkeypatch.setattr(testbeds, "names", lambda: ["small"])
    monkeypatch.setattr(testbeds, "testbed", lambda name: BED)


def test_the_command_on_digits(one_page, tmp_path, capsys):
    assert main(["yardsticks", "small", "--out", str(tmp_path)]) == 0
    cells = yardsticks.read("small", tmp_path)
    found = {(cell["method"], cell["variant"]): cell for cell in cells}
    assert list(found) == [
        ("chance", ""),
        ("simple features", ""),
        ("logistic regression", "defaults"),
        ("logistic regression", "tuned"),
    ]
    assert found["chance", ""]["value"] == pytest.approx(0.1)
    for name, variant in list(found)[1:]:
        cell = found[name, variant]
        assert cell["interval"][0] < cell["value"] < cell["interval"][1]
        assert cell["value"] > 0.7 and cell["n"] == 200 and cell["part"] == "valid"
    assert found["logistic regression", "tuned"]["options"] in ({}, *logistic().grid)
    assert "logistic regression tuned" in capsys.readouterr().out
    before = (tmp_path / "small.json").read_text(encoding="utf-8")
    assert main(["yardsticks", "small", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "small.json").read_text(encoding="utf-8") == before, (
        "what is there is not measured anew"
    )


def test_the_test_part_tunes_on_validation(tmp_path):
    judged = []

    def fit(train, task, c=0.0):
        def predict(records):
            judged.append((c, len(train), len(records)))
            return np.full(len(records), "1" if c == 2.0 else "0", dtype=object)

        return predict

    bed = replace(BED, peers=(Peer("blind", "scikit-learn", fit, grid=({"c": 2.0},)),))
    data = bed.open()
    sizes = {part: len(data.split(part)) for part in ("train", "valid", "test")}
    yardsticks.measure(bed, test=True, folder=tmp_path, say=lambda line: None)
    assert judged[0] == (0.0, sizes["train"], sizes["test"])
    assert judged[1:3] == [(c, sizes["train"], sizes["valid"]) for c in (0.0, 2.0)]
    judged.clear()
    yardsticks.measure(bed, folder=tmp_path, say=lambda line: None)
    assert all(on != sizes["valid"] for _, _, on in judged[1:3])
    assert len(yardsticks.read("small", tmp_path)) == 8


def test_a_peer_that_is_not_installed_or_fails_is_a_result(tmp_path):
    def fail(train, task):
        raise ValueError("no such matrix")

    peers = (Peer("absent", "no-such-library", fail), Peer("failing", "scikit-learn", fail))
    yardsticks.measure(replace(BED, peers=peers), folder=tmp_path, say=lambda line: None)
    reasons = [cell["skipped"] for cell in yardsticks.read("small", tmp_path) if "skipped" in cell]
    assert reasons == ["no-such-library is not installed", "failed: no such matrix"]


def test_numbers_of_other_records_are_dropped(tmp_path):
    bed = replace(BED, peers=())
    path = yardsticks.measure(bed, folder=tmp_path, say=lambda line: None)
    stored = json.loads(path.read_text(encoding="utf-8")) | {"fingerprint": "of other records"}
    stored["cells"][1]["value"] = 2.0
    path.write_text(json.dumps(stored), encoding="utf-8")
    yardsticks.measure(bed, folder=tmp_path, say=lambda line: None)
    assert yardsticks.read("small", tmp_path)[1]["value"] < 1


@pytest.mark.parametrize("name", testbeds.names())
def test_the_numbers_in_the_repository_are_of_these_tasks(name):
    bed, cells = testbeds.testbed(name), yardsticks.read(name)
    if not cells:
        pytest.skip(f"the yardsticks of {name} have not been measured yet")
    assert {cell["task"] for cell in cells} <= {task.name for task in bed.tasks}
    for cell in cells:
        assert ("value" in cell) != ("skipped" in cell)


@pytest.mark.parametrize("name", testbeds.names())
def test_a_measured_budget_is_that_of_the_page(name):
    bed, found = testbeds.testbed(name), budgets.read(name)
    if found is None:
        pytest.skip(f"the budget of {name} has not been measured yet")
    assert (bed.steps, bed.batch_size, bed.size) == tuple(
        found[key] for key in ("steps", "batch_size", "size")
    )
    assert bed.primary.name == found["task"]
