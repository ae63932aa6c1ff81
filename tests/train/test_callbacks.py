"""Who may look on while a method trains, and where metrics go."""

import json
import sys
import types

import pytest
import torch

from amodal import data
from amodal.core import AmodalError
from amodal.train import callbacks, log, loggers
from amodal.train.callbacks import OnlineProbe, OnlineRetrieval
from amodal.train.pretrain import pretrain

QUICK = dict(size="nano", batch_size=16, steps=4, save_every=2, seed=1, progress=False)


def sha(run) -> str:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


class Nosy:
    """Has all hooks, and draws random numbers in each."""

    def __init__(self):
        self.steps, self.entries, self.paths = [], [], []

    def on_step(self, progress, terms):
        torch.rand(3)
        self.steps.append((progress.step, sorted(terms)))

    def on_log(self, progress, values):
        torch.rand(5)
        self.entries.append((progress.step, values["loss"]))
        return {"nosy": 7.0}

    def on_checkpoint(self, progress, path):
        torch.manual_seed(0)
        self.paths.append((progress.step, path.name, progress.encoder is progress.method.encoder))


def test_hooks_are_called_and_change_nothing(folder, tmp_path):
    plain = pretrain("mae", folder, tmp_path / "plain", logger=None, **QUICK)
    nosy, entries = Nosy(), []
    run = pretrain(
        "mae",
        folder,
        tmp_path / "run",
        callbacks=[nosy],
        logger=lambda step, v: entries.append((step, v)),
        **QUICK,
    )
    assert sha(run) == sha(plain)
    assert [step for step, _ in nosy.steps] == [1, 2, 3, 4] and nosy.steps[0][1]
    assert [step for step, _ in nosy.entries] == [1, 4]
    assert nosy.paths == [(2, "step-00000002", True), (4, "step-00000004", True)]
    assert [(s, v["nosy"]) for s, v in entries] == [(1, 7.0), (4, 7.0)], "any callable is a logger"
    assert all(entry["nosy"] == 7.0 for entry in log.read_metrics(run / "metrics.jsonl"))
    assert not (run / "tensorboard").exists()


class OnlySteps:
    def on_step(self, progress, terms):
        raise InterruptedError


def test_any_object_with_any_hook_and_no_other(folder, tmp_path):
    with pytest.raises(AmodalError, match="called with on_step at step 1, raised InterruptedError"):
        pretrain("clip", folder, tmp_path / "run", callbacks=[OnlySteps()], logger=None, **QUICK)
    with pytest.raises(
        AmodalError, match="has one of on_step, on_log, on_checkpoint; dict has none"
    ):
        pretrain("clip", folder, tmp_path / "other", callbacks=[{}], logger=None, **QUICK)


def test_a_probe_and_retrieval_on_held_out_records(folder, tmp_path):
    dataset = data.open(folder)
    dataset.parts[::3] = 1  # more records to measure on
    looking = [OnlineProbe(dataset, "folder", every=2), OnlineRetrieval(dataset, every=2)]
    run = pretrain(
        "clip", dataset, tmp_path / "run", callbacks=looking, logger=None, **QUICK | {"steps": 40}
    )
    last = log.read_metrics(run / "metrics.jsonl")[-1]
    for name in (
        "probe/folder/image",
        "probe/folder/text",
        "retrieval/image>text",
        "retrieval/text>image",
    ):
        assert 0 <= last[name] <= 1, name
    assert last["probe/folder/image"] > 0.5, "four colours can be read from the pictures"
    with pytest.raises(AmodalError, match="Did you mean folder"):
        OnlineProbe(dataset, "foldr")


def test_a_probe_of_a_number_gives_its_share_of_the_variance():
    values = torch.linspace(-1, 1, 40)
    probe = OnlineProbe.__new__(OnlineProbe)
    probe.values, probe.classes, probe.ridge = values.double(), [], 1e-6
    x = torch.stack([values, torch.ones(40)], 1)
    assert probe._score(x, torch.arange(40)) == pytest.approx(1, abs=1e-3)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    assert probe._score(noise, torch.arange(40)) < 0.5
    assert probe._score(x[:5], torch.arange(5)) is None, "too few to say anything"


def test_callbacks_of_the_command_line(folder, tmp_path):
    dataset = data.open(folder)
    dataset.parts[::3] = 1
    assert isinstance(callbacks.from_spec("probe:folder", dataset), OnlineProbe)
    assert isinstance(callbacks.from_spec("retrieval", dataset), OnlineRetrieval)
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n    def __init__(self, data):\n        self.data = data\n    on_step = print\n",
        encoding="utf-8",
    )
    assert callbacks.from_spec(f"{file}:Mine", dataset).data is dataset
    assert isinstance(
        callbacks.from_spec("amodal.train.callbacks:OnlineRetrieval", dataset), OnlineRetrieval
    )
    for spec, words in (
        ("retrival", "Did you mean retrieval"),
        ("probe", "probe:LABEL"),
        (f"{file}:Yours", "no name in .* is called 'Yours'"),
        (f"{tmp_path}/gone.py:Mine", "there is no file"),
        ("no.such.module:Mine", "cannot be imported"),
    ):
        with pytest.raises(AmodalError, match=words):
            callbacks.from_spec(spec, dataset)


class Fake(types.ModuleType):
    """As much of the package of a logger as is used; it notes its calls."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **settings):
            self.calls.append((name, args, settings))
            return self

        return call


@pytest.mark.parametrize(
    ("name", "starts", "logs", "ends"),
    [
        ("wandb", "init", "log", "finish"),
        ("mlflow", "start_run", "log_metrics", "end_run"),
        ("trackio", "init", "log", "finish"),
    ],
)
def test_loggers_call_their_package(name, starts, logs, ends, folder, tmp_path, monkeypatch):
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    pretrain("clip", folder, tmp_path / "run", logger=name, **QUICK)
    called = [call for call, _, _ in fake.calls]
    assert starts in called and called[-1] == ends and called.count(logs) == 2
    entries = [(args[0], settings["step"]) for call, args, settings in fake.calls if call == logs]
    assert [step for _, step in entries] == [1, 4] and all(
        "loss" in values for values, _ in entries
    )
    config = next(
        settings.get("config") or args[0]
        for call, args, settings in fake.calls
        if call in ("init", "log_dict")
    )
    assert config["method"] == "clip"


def test_a_logger_that_is_not_installed_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AmodalError, match="pip install wandb"):
        pretrain("clip", folder, tmp_path / "run", logger=["tensorboard", "wandb"], **QUICK)
    assert not (tmp_path / "run").exists()
    with pytest.raises(AmodalError, match="Did you mean wandb"):
        loggers.check_loggers("wandbb")
    with pytest.raises(AmodalError, match="a callable"):
        loggers.check_loggers([3])
