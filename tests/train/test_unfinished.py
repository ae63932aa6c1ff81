"""What a run that has not been finished can be used for: its latest checkpoint."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

import amodal
from amodal.cli import main
from amodal.core import AmodalError
from amodal.data import sets
from amodal.train.callbacks import Progress

HOW = dict(size="nano", batch_size=16, steps=8, save_every=3, progress=False, logger=None)


class Stop:
    def __init__(self, step):
        self.step = step

    def on_step(self, progress: Progress, terms):
        if progress.step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def wine():
    sets.ensure("wine", say=lambda line: None)  # generated, nothing is fetched


@pytest.fixture(scope="module", params=["simclr", "dino"])
def stopped(request, tmp_path_factory):
    """A run that was stopped behind a checkpoint, and the encoder as it was at the checkpoint."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.raises(KeyboardInterrupt):
        amodal.pretrain(request.param, "wine", out, callbacks=[Stop(4)], **HOW)
    return request.param, out


def test_the_latest_checkpoint_is_opened_and_says_so(stopped, tmp_path):
    name, out = stopped
    steps = sorted(int(p.name[5:]) for p in (out / "checkpoints").glob("step-*"))
    with pytest.warns(UserWarning, match=f"not been finished: this is step {steps[-1]} of 8"):
        model = amodal.load(out)
    path = out / "checkpoints" / f"step-{steps[-1]:08d}" / "model.safetensors"
    stored = load_file(path)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, stored[f"method.encoder.{key}"]), key
    with pytest.warns(UserWarning, match="not been finished"):
        main(["embed", str(out), "--data", "wine", "--out", str(tmp_path / "v.parquet")])
    assert (tmp_path / "v.parquet").exists()


def test_it_goes_on_all_the_same_and_then_needs_no_checkpoint(stopped, tmp_path, recwarn):
    name, out = stopped
    run = tmp_path / "run"
    shutil.copytree(out, run)
    amodal.pretrain(name, "wine", run, resume=True, **HOW)
    straight = amodal.pretrain(name, "wine", tmp_path / "straight", **HOW)
    resumed = amodal.load(run)
    assert not [w for w in recwarn if "not been finished" in str(w.message)]
    for a, b in zip(resumed.encoder.parameters(), straight.encoder.parameters()):
        assert torch.equal(a, b)


def test_a_run_without_a_checkpoint_says_what_to_do(stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped[1], run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(AmodalError, match="has not been finished.*--resume"):
        amodal.load(run)


def test_of_an_average_it_is_the_average(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        amodal.pretrain("simclr", "wine", run, callbacks=[Stop(4)], ema=0.5, **HOW)
    with pytest.warns(UserWarning, match="not been finished"):
        model = amodal.load(run)
    stored = load_file(run / "checkpoints" / "step-00000003" / "model.safetensors")
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, stored[f"average.{key}"]), key
    assert any(
        not torch.equal(stored[f"average.{k}"], stored[f"method.encoder.{k}"])
        for k in model.encoder.state_dict()
    )
