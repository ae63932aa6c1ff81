"""One study, one process or many, with and without accidents."""

import gc
import json
import random
import time
import weakref
from collections import Counter
from types import SimpleNamespace

import pytest

from amodal.core import AmodalError
from amodal.studies import Limits, Outcome, run, standings, winner
from amodal.studies import limits as limits_module
from amodal.studies import worker as worker_module
from amodal.studies.outcome import Measured
from amodal.studies.storage import Trials
from amodal.studies.study import Cell, jobs
from tests.studies.fake import Formula, ended, study, value, worker

QUICK = {"progress": False, "poll": 0.02, "every": 0.1}


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return {
        "journal": str(tmp_path / "study.journal"),
        "sqlite": f"sqlite:///{tmp_path}/study.db",
    }[request.param]


def worked(log):
    """How often each cell was worked on."""
    return Counter(tuple(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines())


def expected(one):
    """Cell -> score of a study that is played without a worker."""
    outcomes = {}
    while todo := jobs(one, outcomes):
        outcomes |= {cell: Outcome(value(one.job(cell))) for cell in todo}
    return {cell: outcome.score for cell, outcome in outcomes.items()}


def test_a_study_is_run_and_its_results_are_stored(storage, tmp_path):
    one, log = study(seeds=(0, 1)), tmp_path / "log"
    outcomes = run(one, Formula(log), storage, **QUICK)
    assert {c: o.score for c, o in outcomes.items()} == expected(one)
    assert winner(one, outcomes) == "c7" and set(worked(log).values()) == {1}
    details = next(iter(outcomes.values())).details
    assert details["steps"] == 10 and details["seconds"] >= 0 and details["peak_bytes"] > 2**20
    assert run(one, None, storage, **QUICK) == outcomes  # nothing is left to do


def test_three_processes_find_what_one_finds(storage, tmp_path):
    one, logs = study(5, seeds=(0, 1)), [tmp_path / f"log{i}" for i in range(3)]
    workers = [worker(one, storage, log, seconds=0.05) for log in logs]
    assert ended(workers) == [0, 0, 0]
    outcomes = Trials(one, storage).snapshot().outcomes
    assert {c: o.score for c, o in outcomes.items()} == expected(one)
    total = sum((worked(log) for log in logs if log.exists()), Counter())
    assert set(total.values()) == {1}, "a cell was worked on twice"


def test_killed_workers_lose_their_own_trial_only(tmp_path):
    one, storage, rng = study(), tmp_path / "study.journal", random.Random(0)
    logs = [tmp_path / f"log{i}" for i in range(7)]
    workers = [worker(one, storage, log, 0.3, patience=1.0) for log in logs[:2]]
    for log in logs[2:]:
        time.sleep(0.1 + rng.random() * 0.3)
        workers[0].kill()
        assert ended(workers[:1]) == [-9], "it had ended before: the test shows nothing"
        workers = [*workers[1:], worker(one, storage, log, 0.3, patience=1.0)]
    assert ended(workers) == [0, 0]
    snapshot = Trials(one, storage).snapshot()
    assert {c: o.score for c, o in snapshot.outcomes.items()} == expected(one)
    total = sum((worked(log) for log in logs if log.exists()), Counter())
    assert sum(snapshot.lost.values()) <= 5 and total.total() <= len(expected(one)) + 5


def test_of_duplicates_the_first_one_counts(storage, tmp_path):
    one, log = study(2, rungs=1), tmp_path / "log"
    first, second = Trials(one, storage), Trials(one, storage)
    first.enqueue(jobs(one, {}))
    second.enqueue(jobs(one, {}))
    waiting = first.snapshot().waiting
    assert len(waiting) == 12 and not first.claim(waiting[6]) and first.claim(waiting[0])
    assert not second.claim(waiting[0]), "somebody has it"
    assert first.end(waiting[0].trial, interrupted=True)
    run(one, Formula(log), storage, **QUICK)
    assert set(worked(log).values()) == {1} and len(worked(log)) == 6
    assert not first.snapshot().lost


def test_a_trial_that_fails_is_a_result(tmp_path):
    one, log = study(4, rungs=2), tmp_path / "log"
    outcomes = run(one, Formula(log, failing=("c3",)), tmp_path / "s", **QUICK)
    found = {s.candidate: s.state for s in standings(one, outcomes)}
    assert found["c3"] == "failed: c3 does not fit this data" and winner(one, outcomes) == "c2"
    run(one, Formula(log), tmp_path / "s", **QUICK)
    assert worked(log)["c3", "", 0, 0, 10] == 1, "it is not tried a second time"


def test_broken_code_and_scores_that_are_no_number_fail(tmp_path):
    def objective(job, check):
        if job.candidate.name == "c0":
            raise KeyError("x")
        measured = Formula(tmp_path / "log")(job, check)
        return type(measured)(float("nan")) if job.candidate.name == "c1" else measured

    one = study(3, rungs=1, seeds=(0,))
    outcomes = run(one, objective, tmp_path / "s", **QUICK)
    found = {s.candidate: s.state for s in standings(one, outcomes)}
    assert found == {"c0": "failed: KeyError: 'x'", "c1": "failed: its score is nan", "c2": "done"}


def test_limits_of_time_and_memory(tmp_path):
    one = study(1, rungs=1, seeds=(0,))
    for limits, sentence in (
        (Limits(seconds=0.0), "took longer than 0 s"),
        (Limits(memory=2**20), "took more than 1 MiB of memory"),
    ):
        outcomes = run(one, Formula(tmp_path / "log"), tmp_path / sentence, limits=limits, **QUICK)
        assert [o.failed for o in outcomes.values()] == [sentence]


def test_a_budget_ends_a_study_and_the_next_call_continues_it(storage, tmp_path):
    one, log = study(4, rungs=2, seeds=(0, 1)), tmp_path / "log"
    calls = 0
    while len(outcomes := run(one, Formula(log), storage, budget=0.1, **QUICK)) < len(
        expected(one)
    ):
        calls += 1
        assert calls < 200 and jobs(one, outcomes)
    assert set(worked(log).values()) == {1} and winner(one, outcomes) == "c3"


def test_no_trial_is_begun_that_would_end_too_late(monkeypatch, tmp_path):
    """By a clock that only training moves: on a busy machine bookkeeping takes any time."""
    one, log = study(1, rungs=3, seeds=(0,)), tmp_path / "log"
    now = 0.0

    def objective(job, check):
        nonlocal now
        now += job.steps
        return Formula(log)(job, check)

    clock = SimpleNamespace(monotonic=lambda: now, process_time=lambda: now, sleep=time.sleep)
    for module in (limits_module, worker_module):
        monkeypatch.setattr(module, "time", clock)
    first, second, third = (one.steps_of(Cell("c0", "", 0, rung)) for rung in range(3))
    enough = first + second + third
    for budget, done in ((enough - 1, 2), (enough, 3)):
        now = 0.0
        assert len(run(one, objective, tmp_path / f"{budget}", budget=budget, **QUICK)) == done


def test_an_interrupt_puts_the_trial_back(tmp_path):
    one, log = study(2, rungs=1, seeds=(0,)), tmp_path / "log"

    def interrupted(job, check):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(one, interrupted, tmp_path / "s", **QUICK)
    snapshot = Trials(one, tmp_path / "s").snapshot()
    assert not snapshot.outcomes and not snapshot.running and not snapshot.lost
    assert len(run(one, Formula(log), tmp_path / "s", **QUICK)) == 2


def test_a_trial_whose_worker_is_lost_three_times_has_failed(tmp_path):
    one = study(1, rungs=1, seeds=(0,))
    trials = Trials(one, tmp_path / "s")
    for _ in range(3):
        assert not trials.snapshot().outcomes
        trials.enqueue(jobs(one, {}))
        ticket = trials.snapshot().waiting[0]
        assert trials.claim(ticket) and trials.end(ticket.trial, lost=True)
    outcomes = run(one, None, tmp_path / "s", **QUICK)
    assert [o.failed for o in outcomes.values()] == [
        "its process was killed 3 times, perhaps for want of memory"
    ]


def test_a_worker_that_was_taken_for_dead_is_not_counted(tmp_path):
    one = study(1, rungs=1, seeds=(0,))
    trials = Trials(one, tmp_path / "s")
    trials.enqueue(jobs(one, {}))
    ticket = trials.snapshot().waiting[0]
    assert trials.claim(ticket) and trials.end(ticket.trial, lost=True)
    outcomes = run(one, Formula(tmp_path / "log"), tmp_path / "s", **QUICK)
    late = Outcome(99.0)
    assert not trials.finish(ticket, late) and trials.snapshot().outcomes == outcomes


def test_another_study_of_the_same_name_is_refused(tmp_path):
    run(study(2, rungs=1), Formula(tmp_path / "log"), tmp_path / "s", **QUICK)
    with pytest.raises(AmodalError, match="its candidates differ"):
        run(study(3, rungs=1), None, tmp_path / "s", **QUICK)
    other = study(3, rungs=1, name="other")
    assert len(run(other, Formula(tmp_path / "log"), tmp_path / "s", **QUICK)) == 9


def test_a_torn_line_of_a_killed_writer_is_cut(tmp_path):
    one, journal = study(2, rungs=1), tmp_path / "study.journal"
    run(one, Formula(tmp_path / "log"), journal, budget=0, **QUICK)
    trials = Trials(one, journal)
    trials.enqueue(jobs(one, {})[:1])
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"op_code": 4, "worker')
    assert len(run(one, Formula(tmp_path / "log"), journal, **QUICK)) == 6


def test_storages_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for where, sentence in (
        (tmp_path / "file" / "s", "cannot be written"),
        ("nodb://x", "no database"),
        (f"sqlite:///{tmp_path}/no/folder.db", "cannot be opened"),
    ):
        with pytest.raises(AmodalError, match=sentence):
            Trials(study(), where)


def test_a_study_is_continued_from_outcomes_of_elsewhere(tmp_path):
    one, log, reported = study(4, rungs=2), tmp_path / "log", []
    failing = ("c0",)
    first = run(one, Formula(log, failing=failing), tmp_path / "a", report=reported.append, **QUICK)
    assert len(reported) == len(first) == 18 and [len(r) for r in reported] == [*range(1, 19)]
    half = reported[9]
    second = run(one, Formula(log, failing=failing), tmp_path / "b", before=half, **QUICK)
    assert {c: (o.score, o.failed) for c, o in second.items()} == {
        c: (o.score, o.failed) for c, o in first.items()
    }
    assert sum(worked(log).values()) == 18 + 8


def test_what_a_trial_leaves_in_a_cycle_is_freed_before_the_next_one(tmp_path):
    """A run that has ended is few objects and hundreds of megabytes."""

    class Trained:
        def __init__(self):
            self.itself = self

    made = []

    def alive():
        return [one for one in made if one() is not None]

    def objective(job, check):
        assert not alive(), "an earlier trial is still there"
        trained = Trained()
        made.append(weakref.ref(trained))
        if len(made) == 2:
            raise AmodalError("diverged")
        return Measured(value(job))

    gc.disable()
    try:
        outcomes = run(study(3), objective, tmp_path / "study.journal", **QUICK)
    finally:
        gc.enable()
    assert len(made) >= 3 and not alive()
    assert [o.failed for o in outcomes.values() if o.failed] == ["diverged"]
