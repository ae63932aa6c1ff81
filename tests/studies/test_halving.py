"""What goes on is a pure function of the outcomes."""

import pytest

from amodal.core import AmodalError
from amodal.studies import Candidate, Outcome, Study, standings, winner
from amodal.studies.study import entrants, jobs, steps_left
from tests.studies.fake import study, value


def played(one, until=None, failing=()):
    """The outcomes after `until` trials, one after the other."""
    outcomes = {}
    while (todo := jobs(one, outcomes)) and len(outcomes) != until:
        job = one.job(todo[0])
        failed = f"{job.candidate.name} broke" if job.candidate.name in failing else ""
        outcomes[todo[0]] = Outcome(None if failed else value(job), failed)
    return outcomes


def test_the_better_half_goes_on_with_more_steps():
    one = study(7)
    outcomes = played(one)
    by_rung = [sorted({c.candidate for c in outcomes if c.rung == rung}) for rung in range(3)]
    assert by_rung == [[f"c{i}" for i in range(7)], ["c3", "c4", "c5", "c6"], ["c5", "c6"]]
    assert {c.rung: one.steps_of(c) for c in outcomes} == {0: 10, 1: 20, 2: 40}
    assert all({c.seed for c in outcomes if c.candidate == f"c{i}"} == {0, 1, 2} for i in range(7))
    assert winner(one, outcomes) == "c6"
    found = {s.candidate: s.state for s in standings(one, outcomes)}
    assert found == {
        **{f"c{i}": "stopped at 10" for i in (0, 1, 2)},
        **{f"c{i}": "stopped at 20" for i in (3, 4)},
        **{f"c{i}": "done" for i in (5, 6)},
    }
    assert [s.candidate for s in standings(one, outcomes)][:2] == ["c6", "c5"]


def test_the_mean_over_seeds_decides_and_ties_go_by_name():
    one = study(3, rungs=2, seeds=(0, 1))
    scores = {"c0": (0.0, 1.0), "c1": (0.9, 0.0), "c2": (0.5, 0.5)}
    outcomes = {c: Outcome(scores[c.candidate][c.seed]) for c in jobs(one, {})}
    assert entrants(one, 1, outcomes) == ["c0", "c2"]


def test_no_rung_begins_before_the_one_below_is_complete():
    one = study(4)
    outcomes = played(one, until=11)
    assert entrants(one, 1, outcomes) is None and len(jobs(one, outcomes)) == 1
    assert {c.rung for c in jobs(one, played(one, until=12))} == {1}


def test_what_failed_goes_no_further():
    one = study(4)
    outcomes = played(one, failing={"c3", "c2"})
    found = {s.candidate: s.state for s in standings(one, outcomes)}
    assert found["c3"] == "failed: c3 broke" and winner(one, outcomes) == "c1"
    assert not any(c.candidate in ("c2", "c3") for c in outcomes if c.rung)
    assert winner(one, played(one, failing={f"c{i}" for i in range(4)})) is None


def test_steps_left_count_down_to_nothing():
    one = study(7)
    outcomes = played(one)
    assert steps_left(one, {}) == 3 * (7 * 10 + 4 * 20 + 2 * 40)
    assert steps_left(one, played(one, until=1)) == steps_left(one, {}) - 10
    assert steps_left(one, outcomes) == 0


def test_each_dataset_has_steps_of_its_own_and_the_mean_is_over_all():
    one = study(2, steps={"a": 10, "b": 30}, seeds=(0,), rungs=2)
    outcomes = {c: Outcome(float(c.candidate == "c0") * (c.data == "b")) for c in jobs(one, {})}
    assert [(c.data, one.steps_of(c)) for c in jobs(one, outcomes)] == [("a", 20), ("b", 60)]
    assert {c.candidate for c in jobs(one, outcomes)} == {"c0"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"candidates": ()}, "at least one candidate"),
        ({"candidates": (Candidate("clip"), Candidate("clip"))}, "called 'clip'"),
        ({"seeds": (1, 1)}, "must differ"),
        ({"rungs": 0}, "at least one rung"),
        ({"eta": 1.0}, "eta above 1"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_studies_that_cannot_be_run(arguments, sentence):
    with pytest.raises(AmodalError, match=sentence):
        Study(**{"candidates": (Candidate("clip"),)} | arguments)


def test_candidates_describe_themselves_and_refuse_unknown_fields():
    one = Candidate("clip", recipe={"lr": 0.001}, size="nano")
    assert one.name == "clip nano lr=0.001" and one.written()["recipe"] == {"lr": 0.001}
    assert one.full_recipe().lr == 0.001
    with pytest.raises(AmodalError, match="Did you mean lr"):
        Candidate("clip", recipe={"lrr": 1})
    with pytest.raises(AmodalError, match="stored"):
        Candidate(print)
