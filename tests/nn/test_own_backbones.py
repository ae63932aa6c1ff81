"""Mistakes in a backbone of the user's own are said in a sentence, with its name and its field."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import amodal
from amodal.core import AmodalError
from amodal.errors import UserCodeError
from amodal.nn.backbones.module_output import NanFlags
from amodal.nn.backbones.pretrained import backbone
from amodal.train.collapse_monitor import TrainingStopped

QUICK = dict(size="nano", steps=3, batch_size=8, progress=False, logger=None, device="cpu")


class Net(nn.Module):
    """(N, L, 2) and lengths -> whatever `make` makes of the mean, the input and the module."""

    def __init__(self, make, device=None):
        super().__init__()
        self.linear, self.make = nn.Linear(2, 5, device=device), make

    def forward(self, values, lengths):
        return self.make(self.linear(values.mean(1)), values, self)


def records(n=24):
    rng = np.random.default_rng(0)
    return {
        name: [rng.normal(i % 3, 1, (16, 2)).astype(np.float32) for i in range(n)]
        for name in ("wave", "motion")
    }


def dataset():
    return amodal.as_dataset(records())


def built(make, **options):
    wave = dataset().fields["wave"]
    return backbone(Net(make, **options), wave, 64, frozen=False)


def method_and_batch(make):
    data = dataset()
    encoder = amodal.Encoder(data.fields, size="nano", backbones={"wave": built(make)})
    return amodal.methods.build("clip", encoder), data.collate([data[i] for i in range(6)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y, x, net: y.round().long(), "gave int64 numbers; expected real ones"),
        (lambda y, x, net: y > 0, "gave bool numbers"),
        (lambda y, x, net: {"last": y}, r"gave dict; expected a tensor \(N, D\)"),
        (lambda y, x, net: y.repeat(3, 1), r"gave \(3, 5\) for 1 value; .* must be N = 1"),
        (lambda y, x, net: x["pixels"], r"raised \w+Error: .*test_own_backbones.py, line \d+\)"),
        (lambda y, x, net: {}["pixels"], "raised KeyError: 'pixels' .*test_own_backbones.py, line"),
        (lambda y, x, net: y.to("meta"), "gave a tensor on meta; its values are on cpu"),
    ],
)
def test_a_mistake_is_said_when_it_is_built(make, message):
    with pytest.raises(AmodalError, match=r"backbone \S*Net, called with .*, " + message):
        built(make)


def test_a_module_without_values_is_refused():
    with pytest.raises(AmodalError, match="is on the meta device, where linear.weight has no val"):
        built(lambda y, x, net: y, device="meta")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y, x, net: y.mean(0, keepdim=True), r"gave \(1, 5\) for 6 values"),
        (lambda y, x, net: y if len(y) == 1 else {}["pixels"], "raised KeyError: 'pixels'"),
        (lambda y, x, net: y[:, : 6 - len(y)] if len(y) > 1 else y, "gave 0 features, and 5 when"),
    ],
)
def test_a_mistake_is_said_when_it_runs(make, message):
    method, batch = method_and_batch(make)
    with pytest.raises(AmodalError, match=r"backbone \S*Net of the field 'wave' " + message):
        method.features(batch)


def test_what_it_raises_comes_with_its_traceback():
    method, batch = method_and_batch(lambda y, x, net: y if len(y) == 1 else {}["pixels"])
    with pytest.raises(UserCodeError) as error:
        method.features(batch)
    assert "KeyError: 'pixels'" in error.value.code_traceback
    assert "test_own_backbones.py" in error.value.code_traceback
    assert isinstance(error.value.__cause__, KeyError)


def test_that_there_is_no_memory_stays_what_it_is():
    def full(y, x, net):
        if len(y) > 1:
            raise torch.OutOfMemoryError("no memory")
        return y

    method, batch = method_and_batch(full)
    with pytest.raises(torch.OutOfMemoryError):
        method.features(batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_another_precision_are_taken(dtype):
    method, batch = method_and_batch(lambda y, x, net: y.to(dtype))
    same, _ = method_and_batch(lambda y, x, net: y.to(dtype).float())
    same.load_state_dict(method.state_dict())
    losses, wanted = (sum(m.losses(m.features(batch)).values()) for m in (method, same))
    assert losses.dtype == torch.float32 and torch.equal(losses, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(sum(method.losses(method.features(batch)).values()))


def test_a_run_names_the_backbone_whose_output_is_nan(tmp_path):
    net = Net(lambda y, x, net: y / torch.zeros(()) * 0)
    for frozen in (True, False):
        with pytest.raises(TrainingStopped, match=r"of the field 'wave' is NaN") as error:
            out = tmp_path / str(frozen)
            amodal.pretrain(
                "clip", records(), out, backbones={"wave": net}, train_backbones=not frozen, **QUICK
            )
        assert "stopped at step 1: the output of the backbone" in str(error.value)
        assert "--lr" not in str(error.value)


def test_a_loss_that_grows_still_names_the_learning_rate(tmp_path):
    net = Net(lambda y, x, net: y)
    with pytest.raises(TrainingStopped, match="--lr"):
        amodal.pretrain(
            "clip", records(), tmp_path / "r", backbones={"motion": net}, lr=1e30, clip=0.0, **QUICK
        )


def test_the_flag_of_a_moving_average_counts_too():
    method, batch = method_and_batch(lambda y, x, net: y * torch.nan if len(y) > 1 else y)
    both = nn.ModuleList([method, copy.deepcopy(method)])
    flags = NanFlags(both)
    assert flags.take() == {}
    both[1].features(batch)
    ((what, found),) = flags.take().items()
    assert "of the field 'wave'" in what and found and flags.take() == {}
    method.eval().features(batch)
    assert flags.take() == {}
