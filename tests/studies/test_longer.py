"""The winner of a comparison after as many steps as the rest of the budget pays for."""

import json

import pytest

import amodal
from amodal.studies import Candidate, Outcome, Setup, Study
from amodal.studies.comparison import ALONE, JOINED, LONGER, Comparison, Entry
from amodal.studies.longer import job_of, line, longer_steps, train_longer
from amodal.studies.questions import SimpleFeatures
from amodal.studies.study import Cell
from amodal.studies.task import task_of

STUDY = Study((Candidate("simclr"), Candidate("mae")), (0, 1), 10)


@pytest.fixture
def setup(digits):
    return Setup(digits, task_of(digits, "digit").questions, simple=SimpleFeatures())


def outcomes(fixed=5.0, pace=0.5):
    """Of simclr on all rungs; mae ended after the first, and is slower."""
    cells = [Cell("simclr", "", seed, rung) for seed in (0, 1) for rung in range(3)]
    found = {cell: fixed + pace * STUDY.steps_of(cell) for cell in cells}
    found |= {Cell("mae", "", seed, 0): 100.0 for seed in (0, 1)}
    return {
        cell: Outcome(0.5, details={"steps": STUDY.steps_of(cell), "seconds": seconds})
        for cell, seconds in found.items()
    }


def test_the_time_of_a_step_and_of_the_rest():
    assert line([(10, 10.0), (20, 15.0), (40, 25.0), (40, 25.0)]) == pytest.approx((5.0, 0.5))
    assert line([(10, 10.0), (40, 8.0)]) == (0.0, 1.0), "noise: all of it is laid to the steps"
    assert line([(10, 5.0), (10, 7.0)]) == (0.0, 0.7)
    assert line([]) == (0.0, 0.0)


def test_the_steps_that_the_rest_of_the_time_pays_for(setup):
    def steps(left, most=10_000, **times):
        return longer_steps(STUDY, setup, outcomes(**times), "simclr", left=left, most=most)

    # 15 s to measure three times and 20 s for the 40 steps of the last rung are kept
    assert steps(135.0) == 200 and steps(135.0, most=120) == 120
    assert steps(75.0) == 80 and steps(74.0) == 0, "less than twice as many"
    assert steps(-5.0) == 0
    assert longer_steps(STUDY, setup, {}, "simclr", left=1e9, most=100) == 0


def test_a_candidate_of_fixed_steps_is_not_trained_longer(setup):
    fixed = Study((Candidate("simclr", recipe={"steps": 20}, name="simclr"),), (0, 1), 10)
    found = {c: o for c, o in outcomes().items() if c.candidate == "simclr"}
    assert longer_steps(fixed, setup, found, "simclr", left=1e6, most=10_000) == 0


@pytest.fixture
def result(tmp_path):
    lines = [
        Entry("simple features", "simple", 0.72, 0.01),
        Entry("simclr", value=0.7, half=0.03, alone=0.6, steps=40),
        Entry("mae", value=0.4, half=0.02, alone=0.4, steps=10, state="stopped at 10"),
    ]
    (tmp_path / LONGER).mkdir()
    return Comparison("by digit", lines, out=tmp_path)


def longer(result, values, asked=lambda: 200, trained=None):
    def measure(job, name):
        if trained is not None:
            trained.append((job.steps, job.seed, name))
        return values

    saves = []
    winner = result.winner
    found = train_longer(
        result, winner, job_of(STUDY, "simclr"), asked, measure,
        lambda one: saves.append(json.loads(json.dumps(one.about))),
    )  # fmt: skip
    return winner, found, saves


def test_more_steps_are_taken_where_they_are_better(result):
    trained = []
    winner, found, saves = longer(
        result, {ALONE: 0.71, JOINED: 0.8, "error": 0.02}, trained=trained
    )
    assert trained == [(200, 0, LONGER)]
    assert (found.value, found.features, found.alone, found.steps) == (0.8, JOINED, 0.71, 200)
    assert found.half == pytest.approx(0.0392), "over records, which is wider than over seeds"
    assert [e.name for e in result.entries] == ["simclr", "simple features", "mae"]
    assert result.choice is found and winner not in result.entries
    assert "for 200 steps" in result.after_more_steps and "is taken" in result.after_more_steps
    assert saves[0] == {LONGER: {"steps": 200}}, "written down before it is trained"
    assert saves[1][LONGER]["before"] == {"steps": 40, "value": 0.7}


def test_and_not_where_they_are_no_better(result):
    winner, found, _ = longer(result, {ALONE: 0.7, "error": 0.02})
    assert found is winner and not (result.out / LONGER).exists()
    assert "is no better; with 40 it has 0.700" in result.after_more_steps


def test_what_was_decided_before_a_kill_holds(result):
    result.about[LONGER] = {"steps": 160}
    trained = []
    longer(result, {ALONE: 0.9, "error": 0.02}, asked=None, trained=trained)
    assert trained[0][0] == 160
    measured = dict(result.about[LONGER])
    second = Comparison(
        "by digit", [Entry("simclr", value=0.7, half=0.03)], about={LONGER: measured}
    )
    second.out = result.out
    _, found, _ = longer(second, None, asked=None, trained=trained)
    assert found.value == 0.9 and len(trained) == 1, "it is not measured twice"


def test_no_time_no_more_steps(result):
    winner, found, saves = longer(result, None, asked=lambda: 0)
    assert found is winner and saves == [{LONGER: {"steps": 0}}] and not result.after_more_steps


@pytest.mark.parametrize("better", [True, False])
def test_the_run_of_a_comparison_is_the_longer_one_if_it_is_better(
    digits, tmp_path, monkeypatch, better
):  # fmt: skip
    monkeypatch.setattr("amodal.studies.fitting.MAX_EPOCHS", 1)
    monkeypatch.setattr("amodal.studies.fitting.MIN_STEPS", 4)
    monkeypatch.setattr("amodal.studies.compare.longer_steps", lambda *args, **options: 40)
    from amodal.studies.final_test import Finalist

    values = Finalist.values
    shift = 1.0 if better else -1.0
    monkeypatch.setattr(
        Finalist, "values", lambda *args: {n: v + shift for n, v in values(*args).items()}
    )
    out = tmp_path / "out"
    options = dict(methods=["simclr"], seeds=1, budget="1h", progress=False, out=out)
    found = amodal.compare(digits, "digit", **options)
    steps = amodal.load(out / "run").config["recipe"]["steps"]
    assert steps == (40 if better else 16)
    assert found.winner.steps == steps and (found.winner.value > 1) == better
    assert not (out / LONGER).exists() and found.about[LONGER]["taken"] == better
    assert "40 steps" in str(found) and found.about["test"] <= 1
    second = amodal.compare(digits, "digit", **options)
    assert second.rows() == Comparison.load(out).rows() and second.winner.steps == steps
