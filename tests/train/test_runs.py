"""Runs as a user starts, kills, resumes and breaks them."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import amodal
from amodal import modalities
from amodal.core import AmodalError
from amodal.methods import build
from amodal.train import checkpoint, log
from amodal.train.collapse_monitor import CollapseMonitor, TrainingStopped
from amodal.train.prefetch import prefetch
from amodal.train.pretrain import pretrain
from amodal.train.schedule import warmup_cosine

QUICK = dict(size="nano", batch=16, seed=1, progress=False)


def sha(run) -> str:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


def test_a_killed_run_resumes_to_the_weights_of_a_straight_one(folder, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    pretrain("clip", folder, straight, steps=40, checkpoint_every=4, **QUICK)
    call = f"pretrain('clip', {str(folder)!r}, {str(killed)!r}, steps=40, checkpoint_every=4, **{QUICK!r})"
    command = f"import torch; torch.set_num_threads(1); from amodal.train.pretrain import pretrain; {call}"
    process = subprocess.Popen(
        [sys.executable, "-c", command], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and not (killed / "checkpoints" / "step-00000012").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists(), "it was meant to be killed on the way"
    with pytest.warns(UserWarning, match="not been finished"):
        amodal.load(killed)
    pretrain("clip", folder, killed, steps=40, checkpoint_every=4, resume=True, **QUICK)
    assert sha(killed) == sha(straight)
    steps = [entry["step"] for entry in log.read_metrics(killed / "metrics.jsonl")]
    assert steps == sorted(set(steps)), "no step is logged twice"


def test_an_interrupt_writes_a_checkpoint_and_says_how_to_go_on(folder, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "amodal",
        "pretrain",
        "clip",
        "--data",
        str(folder),
        "--out",
        str(run),
        "--size",
        "nano",
        "--steps",
        "100000",
        "--batch",
        "16",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and len(log.read_metrics(run / "metrics.jsonl")) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in said
    assert checkpoint.latest(run / "checkpoints") is not None


def test_a_run_is_not_overwritten_and_resumes_only_as_itself(folder, tmp_path):
    run = tmp_path / "run"
    pretrain("clip", folder, run, steps=3, **QUICK)
    with pytest.raises(AmodalError, match="--resume"):
        pretrain("clip", folder, run, steps=3, **QUICK)
    with pytest.raises(AmodalError, match="another method"):
        pretrain("siglip", folder, run, steps=3, resume=True, **QUICK)
    with pytest.raises(AmodalError, match="no run"):
        pretrain("clip", folder, tmp_path / "nothing", steps=3, resume=True, **QUICK)


def test_a_checkpoint_of_another_model_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    pretrain("clip", folder, run, steps=3, **QUICK)
    encoder = amodal.Encoder(amodal.open(folder).fields, size="tiny")
    with pytest.raises(AmodalError, match="another model.*of another shape"):
        checkpoint.fill(build("clip", encoder), load_file(run / "model.safetensors"), "it")


def test_damaged_weights_are_noticed(folder, tmp_path):
    run = tmp_path / "run"
    pretrain("clip", folder, run, steps=2, **QUICK)
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    with pytest.raises(AmodalError, match="damaged"):
        amodal.load(run)


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    written = checkpoint.save_file
    calls = []

    def full(tensors, path):
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        AmodalError, match="No space left.*last good one is.*step-00000002.*--resume"
    ):
        pretrain("clip", folder, run, steps=6, checkpoint_every=2, **QUICK)
    monkeypatch.undo()
    pretrain("clip", folder, run, steps=6, checkpoint_every=2, resume=True, **QUICK)
    assert (run / "model.safetensors").exists()


def test_nan_stops_the_run_with_a_reason(folder, tmp_path):
    with pytest.raises(TrainingStopped, match="learning rate"):
        pretrain("clip", folder, tmp_path / "run", steps=20, lr=1e30, **QUICK)


def test_collapse_stops_the_run_with_a_reason():
    watch = CollapseMonitor([])
    watch.check({"rank/image": 1.01, "std/image": 0.0}, 100, "there")
    with pytest.raises(TrainingStopped, match="'image' have collapsed.*there"):
        watch.check({"rank/image": 1.02}, 200, "there")
    watch.check({"rank/text": 1.01}, 100, None)
    watch.check({"rank/text": 9.0}, 200, None)
    watch.check({"rank/text": 1.01}, 300, None)  # once is not a collapse


def test_what_does_not_learn_cannot_collapse():
    from amodal.nn.encoder import Encoder
    from amodal.train.collapse_monitor import fixed_fields
    from tests.methods.bench import fields

    encoder = Encoder(fields(("picture", "words")), size="nano")
    assert fixed_fields(encoder) == set()
    encoder.lock("words")
    encoder.tokenizers["picture"].requires_grad_(False)
    assert fixed_fields(encoder) == {"words"}
    watch = CollapseMonitor([])
    watch.fixed = {"words"}
    for _ in range(3):
        watch.check({"rank/words": 1.0, "rank/picture": 9.0}, 100, None)
    shared = Encoder(fields(("picture", "words")), size="nano", trunk="shared")
    assert fixed_fields(shared.requires_grad_(False)) == set(), "not judged"


def test_watch_measures_every_field(folder, tmp_path):
    run = tmp_path / "run"
    pretrain("clip", folder, run, steps=10, **QUICK)
    last = log.read_metrics(run / "metrics.jsonl")[-1]
    assert {
        "loss",
        "lr",
        "data_wait",
        "rank/image",
        "std/image",
        "alignment/image~text",
        "uniformity/text",
    } <= last.keys()


def test_averaged_weights_differ_and_micro_batches_do_not(folder, tmp_path):
    for name, settings in {"plain": {}, "micro": {"micro": 5}, "average": {"average": 0.9}}.items():
        pretrain("clip", folder, tmp_path / name, steps=5, **QUICK, **settings)
    plain, micro, average = (
        load_file(tmp_path / n / "model.safetensors") for n in ("plain", "micro", "average")
    )
    for name in plain:
        torch.testing.assert_close(plain[name], micro[name], rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(plain[n], average[n], atol=1e-4) for n in plain)


@pytest.mark.parametrize(
    ("method", "options"),
    [("decur", {"width": 64}), ("dino", {"prototypes": 16}), ("zorro", {})],
    ids=["decur", "dino", "zorro"],
)
def test_gradients_of_the_terms_are_compared_and_change_nothing(folder, tmp_path, method, options):
    settings = dict(steps=12, micro=8, options=options, **QUICK)
    for name, conflict in (("plain", False), ("compared", True)):
        pretrain(method, folder, tmp_path / name, conflict=conflict, **settings)
    assert sha(tmp_path / "plain") == sha(tmp_path / "compared")
    entries = log.read_metrics(tmp_path / "compared" / "metrics.jsonl")
    cosines = [v for e in entries for n, v in e.items() if n.startswith("conflict/")]
    terms = sum(n.startswith("loss/") for n in entries[0])
    assert len(cosines) == 3 * terms * (terms - 1) // 2 and all(-1 <= c <= 1 for c in cosines)


def test_learning_rate_schedule():
    factors = [warmup_cosine(s, 100, warmup=10) for s in range(100)]
    assert factors[0] == 0.1 and factors[9] == 1.0 and abs(factors[99] - 0.01) < 0.01
    assert all(b <= a for a, b in zip(factors[10:], factors[11:]))


def test_prefetch_keeps_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        for item in prefetch(items()):
            seen.append(item)
    assert seen == list(range(5))


RUNS = {  # name -> method, settings of one process, how the same is asked of two
    "plain": ("clip", {}, []),
    "sharded, averaged, recomputed": (
        "clip",
        {"average": 0.9},
        ["--ema", "0.9", "--fsdp", "--gradient-checkpointing"],
    ),
    "sharded, recomputed, with a teacher": (
        "dino",
        {"options": {"prototypes": 16}},
        ["--method.prototypes", "16", "--shard", "--recompute"],
    ),
}


def arguments(name, folder, runs) -> list[str]:
    method, _, flags = RUNS[name]
    common = dict(data=folder, size="nano", batch=16, steps=6, seed=1, out=runs / name)
    return ["pretrain", method, *[f"--{k}={v}" for k, v in common.items()], *flags]


def torchrun(*command: str) -> None:
    launch = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def two_processes(folder, tmp_path_factory):
    """The folder with the runs of two processes: one as a user types it, the others one after
    another in one pair of processes, which takes long to start."""
    runs = tmp_path_factory.mktemp("two")
    first, *others = RUNS
    torchrun("-m", "amodal", *arguments(first, folder, runs))
    script = runs / "others.py"
    calls = [f"main({arguments(name, folder, runs)!r})" for name in others]
    script.write_text("\n".join(["from amodal.cli import main", *calls]), encoding="utf-8")
    torchrun(str(script))
    return runs


@pytest.mark.parametrize("name", RUNS)
def test_torchrun_gives_the_run_of_one_process(folder, tmp_path, two_processes, name):
    """The same command under torchrun: two processes, plain or with sharded blocks, end at the
    weights of one."""
    method, settings, _ = RUNS[name]
    pretrain(method, folder, tmp_path / "one", steps=6, **QUICK, **settings)
    one, two = (
        load_file(f / "model.safetensors") for f in (tmp_path / "one", two_processes / name)
    )
    for name in one:
        torch.testing.assert_close(
            one[name], two[name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_texts_that_are_cut_off_are_reported(folder, tmp_path, capsys):
    from amodal import data

    dataset = data.open(folder)
    short = dataset.with_fields(
        dataset.fields | {"text": modalities.make("text", max_length=18, tokens="bytes")}
    )
    pretrain("clip", short, tmp_path / "run", steps=1, **QUICK | {"progress": True})
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert 0 < config["data"]["truncated"]["text"] <= 1
    assert "are truncated" in capsys.readouterr().err


def test_settings_that_make_no_field_are_refused_before_a_folder_is_made(folder, tmp_path):
    run = tmp_path / "run"
    for settings in (
        {"steps": 0},
        {"epochs": 0},
        {"steps": 2, "batch": 0},
        {"steps": 2, "micro": 0},
        {"steps": 2, "epochs": 2},
    ):
        with pytest.raises(AmodalError):
            pretrain("clip", folder, run, **QUICK | settings)
    for method in ("clip", "siglip", "zorro"):
        with pytest.raises(AmodalError, match="compares fields, and there is only image"):
            pretrain(method, folder, run, steps=2, sources=["image"], **QUICK)
    with pytest.raises(AmodalError, match="batches of at least 2; here 1"):
        pretrain("simclr", folder, run, steps=2, **QUICK | {"batch": 1})
    texts = amodal.open(
        {"words": [f"no picture {i}" for i in range(60)]},
        fields={"words": modalities.make("image")},
    )
    with pytest.raises(AmodalError, match="none of the values of 'words'.*can be read as image"):
        pretrain("mae", texts, run, steps=2, **QUICK)
    for method in ("mae", "data2vec"):
        with pytest.raises(AmodalError, match="stay random"):
            pretrain(method, folder, run, steps=2, pool="attention", **QUICK)
    assert not run.exists()


def test_a_finished_run_keeps_its_time_when_it_is_resumed(folder, tmp_path):
    run = tmp_path / "run"
    pretrain("clip", folder, run, steps=20, **QUICK)
    before = (run / "config.json").read_text(encoding="utf-8")
    pretrain("clip", folder, run, steps=20, resume=True, **QUICK)
    assert json.loads((run / "config.json").read_text(encoding="utf-8")) == json.loads(before)
