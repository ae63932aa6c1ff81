"""What a run would take here: counted as `pretrain` counts, timed without the first steps, and nothing
is left behind."""

import json

import numpy as np
import pytest

import amodal
from amodal.core import AmodalError
from amodal.plan import here
from amodal.plan.here import Timing, duration, time_steps
from amodal.train import loop
from amodal.train.pretrain import pretrain

QUICK = {"size": "nano", "batch_size": 8, "epochs": 40}
STAGED = {"size": "nano", "batch_size": 8}


@pytest.fixture(scope="module")
def data():
    return amodal.open({"a": [{"x": float(i), "y": float(i % 3)} for i in range(50)]})


def test_it_counts_the_steps_of_the_run_that_would_be_started(data, tmp_path, monkeypatch):
    seen = []
    on_step = here._Clock.on_step
    monkeypatch.setattr(
        here._Clock, "on_step", lambda *args: (seen.append(1), on_step(*args)) and None
    )
    timing = time_steps("simclr", data, seconds=0.0, **QUICK)
    assert len(seen) == here.WARM_UP + here.LEAST, "then it stops"
    run = pretrain("simclr", data, tmp_path / "run", progress=False, logger=None, **QUICK)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (timing.steps, timing.batch_size) == (config["schedule"]["steps"], config["batch"])
    assert timing.records == config["data"]["train"] and timing.memory > 2**25
    assert 0 < timing.step_seconds < timing.seconds and timing.device == "cpu"


def test_the_first_steps_do_not_count():
    clock = here._Clock(9.0, times=[0.0, 50.0, 51.0, 52.0, 54.0])
    assert clock.medians() == [1.0]  # of 1, 1, 2
    assert here._Clock(9.0, times=[0.0, 3.0]).medians() == [3.0]
    assert here._Clock(9.0).medians() == [0.0]


def test_every_stage_is_timed(monkeypatch, tmp_path):
    """`beit` learns a tokenizer of pictures first, and then sees the rest of the steps."""
    pictures = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3), dtype=np.uint8)
    data = amodal.open({"picture": list(pictures)})
    stages, now = [], [0.0]
    start = loop.start_stage

    def noted(method, stage):
        stages.append(stage)
        now[0] += 100.0  # what is done once
        start(method, stage)

    def tick():
        now[0] += (1.0, 9.0)[stages[-1]] if stages else 0.0
        return now[0]

    monkeypatch.setattr(loop, "start_stage", noted)
    monkeypatch.setattr(here.time, "perf_counter", tick)
    timing = time_steps("beit", data, steps=40, **STAGED)
    assert stages == [0, 1]
    (first, fast), (second, slow) = timing.stages
    assert (fast, slow) == (1.0, 9.0) and first + second == timing.steps == 40
    assert timing.step_seconds == (first + 9 * second) / 40
    assert timing.start_seconds == 200.0
    assert timing.seconds == 200 + first + 9 * second
    assert f"{first} steps of 1 s, {second} steps of 9 s in 2 stages, with 8 of" in str(timing)


def test_a_run_that_is_shorter_than_the_clock_is_timed_whole(data):
    timing = time_steps("simclr", data, size="nano", batch_size=8, steps=2)
    assert timing.steps == 2 and timing.step_seconds > 0


def test_mistakes_are_those_of_pretrain(data):
    with pytest.raises(AmodalError, match="Did you mean simclr"):
        time_steps("simclrr", data)
    with pytest.raises(AmodalError, match="batch_size"):
        time_steps("simclr", data, batch_size=-1)


@pytest.mark.parametrize(
    "seconds, words", [(20, "20 s"), (90, "1.5 min"), (7200, "2.0 h"), (2e5, "2.3 days")]
)
def test_people_read_it(seconds, words):
    assert duration(seconds) == words
    about = str(Timing(1000, 64, 100, seconds / 100, 0.0, 2**30, "cpu"))
    assert f"about {words}: 100 steps" in about and "1.0 GiB" in about
