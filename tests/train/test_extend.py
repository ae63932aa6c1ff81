"""A run that gets another length ends as one of that length, trained in one go."""

import hashlib
import json

import numpy as np
import pytest

from amodal import data as records
from amodal.core import AmodalError, Recipe
from amodal.core.clock import Clock
from amodal.train import checkpoint
from amodal.train.pretrain import pretrain
from amodal.train.schedule import branch_of, factor

QUICK = {"size": "nano", "batch_size": 16, "progress": False, "logger": None}
WSD = {"schedule": "wsd", "warmup_steps": 2}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3))
    rows = [{"a": x, "b": y, "c": z} for x, y, z in values.tolist()]
    return records.open({"cells": rows, "note": [f"note {i} {i % 7}" for i in range(60)]})


def sha(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def lines(run):
    entries = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [(e["step"], e["loss"], e["lr"]) for e in entries if "loss" in e]


class Stopping:
    """Ends a run in the middle, as a kill does."""

    def on_step(self, progress, terms):
        if progress.step == 18:
            raise RuntimeError("stopped")


@pytest.mark.parametrize(
    "options", [WSD, WSD | {"decay": 0.5}, {"schedule": "constant", "warmup_steps": 2}]
)
def test_an_extended_run_equals_the_straight_one(dataset, tmp_path, options):
    straight = pretrain("clip", dataset, tmp_path / "straight", steps=20, **options, **QUICK)
    run = pretrain("clip", dataset, tmp_path / "run", steps=10, **options, **QUICK)
    short = sha(run)
    pretrain("clip", dataset, run, steps=20, resume=True, **options, **QUICK)
    assert sha(run) == sha(straight) != short
    first, second = ([e for e in lines(r) if e[0] % 10 == 0] for r in (run, straight))
    assert first == second
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["schedule"]["steps"] == 20


def test_a_run_is_extended_twice_and_an_unfinished_one_shortened(dataset, tmp_path):
    straight = pretrain("clip", dataset, tmp_path / "straight", steps=30, **WSD, **QUICK)
    shorter = pretrain("clip", dataset, tmp_path / "shorter", steps=24, **WSD, **QUICK)
    run = tmp_path / "run"
    pretrain("clip", dataset, run, steps=10, **WSD, **QUICK)
    pretrain("clip", dataset, run, steps=20, resume=True, **WSD, **QUICK)
    pretrain("clip", dataset, run, steps=30, resume=True, **WSD, **QUICK)
    assert sha(run) == sha(straight)
    steps = [checkpoint.step_of(f) for f in checkpoint.all_checkpoints(run / "checkpoints")]
    assert 24 in steps and 30 in steps  # 24: where the rate begins to fall
    with pytest.raises(AmodalError, match="first checkpoint is of step 24, and the new rate falls"):
        pretrain("clip", dataset, run, steps=24, resume=True, **WSD, **QUICK)
    assert sha(run) == sha(straight), "what was refused changed nothing"
    stopped = tmp_path / "stopped"
    with pytest.raises(AmodalError, match="Stopping"):
        options = {"save_every": 4, "callbacks": [Stopping()]}
        pretrain("clip", dataset, stopped, steps=60, **options, **WSD, **QUICK)
    pretrain("clip", dataset, stopped, steps=24, resume=True, **WSD, **QUICK)
    assert sha(stopped) == sha(shorter)


def test_the_warm_up_stays_that_of_the_beginning(dataset, tmp_path):
    options = {"schedule": "wsd", "warmup": 0.4}
    straight = tmp_path / "straight"
    pretrain("clip", dataset, straight, steps=20, schedule="wsd", warmup_steps=4, **QUICK)
    run = pretrain("clip", dataset, tmp_path / "run", steps=10, **options, **QUICK)
    pretrain("clip", dataset, run, steps=20, resume=True, **options, **QUICK)
    assert sha(run) == sha(straight)
    pretrain("clip", dataset, run, steps=20, resume=True, **options | {"warmup_steps": 4}, **QUICK)


def test_what_follows_the_whole_length_cannot_be_extended(dataset, tmp_path):
    run = pretrain("clip", dataset, tmp_path / "run", steps=4, schedule="cosine", **QUICK)
    before = sha(run)
    for method, folder, options, words in (
        ("clip", run, {"schedule": "cosine"}, "schedule cosine.*wsd or constant.*--init-from"),
        ("clip", None, WSD | {"weight_decay_end": 0.4}, "weight_decay_end"),
        ("byol", None, WSD, "byol has a schedule of its own over the whole length"),
    ):
        if folder is None:
            folder = tmp_path / method / "own"
            pretrain(method, dataset, folder, steps=4, **options, **QUICK)
        with pytest.raises(AmodalError, match=f"(?s){words}"):
            pretrain(method, dataset, folder, steps=8, resume=True, **options, **QUICK)
    assert sha(run) == before
    with pytest.raises(AmodalError, match="another seed"):
        own = pretrain("clip", dataset, tmp_path / "seed", steps=4, **WSD, **QUICK)
        pretrain("clip", dataset, own, steps=8, seed=3, resume=True, **WSD, **QUICK)
    assert json.loads((own / "config.json").read_text(encoding="utf-8"))["schedule"]["steps"] == 4


def test_the_rate_is_constant_and_then_falls_by_a_root():
    recipe = Recipe(schedule="wsd", warmup_steps=3, decay=0.25)
    rates = [factor(recipe, step, 20) for step in range(20)]
    assert rates[:3] == [1 / 3, 2 / 3, 1.0] and set(rates[3:16]) == {1.0}
    expected = 1 - np.sqrt(np.arange(5) / 5)
    np.testing.assert_allclose(rates[15:], expected)
    assert branch_of(recipe, 20) == 15 and branch_of(Recipe(schedule="constant"), 20) == 20
    assert Recipe(schedule="wsd").decay_of(100) == 20
    with pytest.raises(AmodalError, match="decay must be"):
        Recipe(schedule="wsd", decay=0.0)


def test_a_clock_knows_whether_its_length_was_read():
    clock = Clock(3, 10)
    assert not clock.length_read and clock.step == 3 and not clock.length_read
    assert clock.progress == 0.3 and clock.length_read
