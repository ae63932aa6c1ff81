"""A run folder has one process at a time, and its number of threads."""

import multiprocessing
import warnings

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError, AmodalWarning
from amodal.core.file_lock import locked
from amodal.train.run_dir import LOCK

QUICK = dict(size="nano", batch_size=16, progress=False, workers=0)


def columns(n=48):
    rng = np.random.default_rng(0)
    return {"wave": [rng.normal(i % 3, 1, (16, 2)).astype(np.float32) for i in range(n)]}


class Stop:
    def on_step(self, progress, terms):
        if progress.step == 3:
            raise KeyboardInterrupt


def begun(out, steps=6):
    """A run that was stopped after three steps, with a checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        amodal.pretrain(
            "simclr", columns(), out, steps=steps, save_every=1, callbacks=[Stop()], **QUICK
        )
    return out


def hold(path, ready, done):
    with locked(path, wait=False):
        ready.set()
        done.wait(60)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    out = begun(tmp_path / "run")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(out / LOCK, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(AmodalError, match="another process is training in"):
            amodal.pretrain("simclr", columns(), out, steps=6, resume=True, **QUICK)
    finally:
        done.set()
        other.join()
    amodal.pretrain("simclr", columns(), out, steps=6, resume=True, **QUICK)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_other_threads_are_said_and_can_be_had_back(tmp_path, three_threads):
    straight = amodal.pretrain("simclr", columns(), tmp_path / "straight", steps=6, **QUICK)
    outs = [begun(tmp_path / name) for name in ("said", "same")]
    torch.set_num_threads(1)
    with pytest.warns(AmodalWarning, match="started with 3 threads and goes on with 1"):
        amodal.pretrain("simclr", columns(), outs[0], steps=6, resume=True, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AmodalWarning)
        same = amodal.pretrain(
            "simclr", columns(), outs[1], steps=6, resume=True, deterministic=True, **QUICK
        )
    assert torch.get_num_threads() == 1 and not torch.are_deterministic_algorithms_enabled()
    for name, value in straight.encoder.state_dict().items():
        assert torch.equal(value, same.encoder.state_dict()[name]), name
