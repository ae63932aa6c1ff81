"""Disks that are full or read-only, files that vanish, workers that die, data that changed: what a
user is told, and what is left."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.data.quarantine import read
from amodal.export.vectors import write_vectors
from amodal.train import checkpoint, log
from amodal.train.pretrain import pretrain

QUICK = dict(size="nano", batch=16, seed=1, progress=False)


def mount(*words: str) -> bool:
    return (
        os.geteuid() == 0 and subprocess.run(["mount", *words], capture_output=True).returncode == 0
    )


@pytest.fixture
def disk(tmp_path):
    """A file system of its own; call it with options to mount it anew: disk("size=2m"), disk("ro")."""
    where = tmp_path / "disk"
    where.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(where)):
        pytest.skip("only root can mount a small disk here")

    def anew(options: str) -> None:
        assert mount("-o", f"remount,{options}", str(where)), f"cannot remount with {options}"

    anew.path = where
    yield anew
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_fills_up_costs_no_checkpoint(folder, tmp_path, disk):
    """The disk is really full. After making room the run ends as one that never met it."""
    pretrain("clip", folder, tmp_path / "straight", steps=8, checkpoint_every=2, **QUICK)
    one = sum(
        f.stat().st_size for f in next((tmp_path / "straight" / "checkpoints").iterdir()).iterdir()
    )
    run = disk.path / "run"
    disk(f"size={int(1.6 * one) // 1024 + 200}k")
    with pytest.raises(
        AmodalError, match="(?s)No space left.*last good one is.*step-00000002.*--resume"
    ):
        pretrain("clip", folder, run, steps=8, checkpoint_every=2, **QUICK)
    assert [p.name for p in checkpoint.all_checkpoints(run / "checkpoints")] == ["step-00000002"]
    load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    disk("size=64m")
    pretrain("clip", folder, run, steps=8, checkpoint_every=2, resume=True, **QUICK)
    assert (run / "model.safetensors").read_bytes() == (
        tmp_path / "straight" / "model.safetensors"
    ).read_bytes()
    steps = [entry["step"] for entry in log.read_metrics(run / "metrics.jsonl")]
    assert steps == sorted(set(steps))


LIMITED = """
import resource, signal, sys
from amodal.train.pretrain import pretrain
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
pretrain("clip", sys.argv[1], sys.argv[2], steps=4, checkpoint_every=2, size="nano", batch=16, progress=False)
"""


def test_a_file_that_may_not_grow_is_reported_without_root(folder, tmp_path):
    command = [sys.executable, "-c", LIMITED, str(folder), str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1
    assert (
        "AmodalError: could not write a checkpoint to" in done.stderr
        and "there is no earlier one" in done.stderr
    )
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """A finished run."""
    return pretrain("clip", folder, tmp_path_factory.mktemp("done") / "run", steps=4, **QUICK)


def test_a_disk_that_fills_up_while_embedding_and_indexing(folder, done, tmp_path, disk):
    model = amodal.load(done)
    disk("size=60k")
    (disk.path / "filler").write_bytes(bytes(45_000))
    with pytest.raises(AmodalError, match="(?s)could not write.*repeat the command"):
        write_vectors(model, folder, disk.path / "v.parquet", progress=False)
    with pytest.raises(AmodalError, match="could not write to the index|cannot write"):
        model.index(folder, disk.path / "index")
    (disk.path / "filler").unlink()
    disk("size=64m")
    assert write_vectors(model, folder, disk.path / "v.parquet", progress=False) > 80
    assert len(model.index(folder, disk.path / "index")) == 80
    data.pack(data.open(folder), disk.path / "pack")
    before = {f.name: f.read_bytes() for f in (disk.path / "pack").iterdir()}
    (disk.path / "filler").write_bytes(bytes(2**20))
    disk(f"size={shutil.disk_usage(disk.path).used // 1024 + 16}k")
    with pytest.raises(AmodalError, match="could not write the pack"):
        data.pack(data.open(folder).select(["image"]), disk.path / "pack")
    assert {f.name: f.read_bytes() for f in (disk.path / "pack").iterdir()} == before
    assert len(data.open(disk.path / "pack")) == 80


def test_a_read_only_disk_is_reported_and_what_is_on_it_can_be_used(folder, tmp_path, disk):
    run = pretrain("clip", folder, disk.path / "run", steps=4, checkpoint_every=2, **QUICK)
    model = amodal.load(run)
    model.index(folder)
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    disk("ro")
    for what in (
        lambda: pretrain("clip", folder, disk.path / "other", steps=2, **QUICK),
        lambda: pretrain("clip", folder, run, steps=4, checkpoint_every=2, resume=True, **QUICK),
        lambda: write_vectors(model, folder, disk.path / "v.parquet", progress=False),
        lambda: model.index(folder),
        lambda: model.index(folder, disk.path / "new"),
        lambda: model.save(disk.path / "copy"),
        lambda: data.pack(data.open(folder), disk.path / "pack"),
    ):
        with pytest.raises(AmodalError, match=f"(?s){disk.path}.*Read-only file system"):
            what()
    assert len(amodal.load(run).search(text="a red picture", k=3)) == 3, (
        "reading is all that searching needs"
    )
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def pictures(root: Path, count: int = 96) -> Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            root / f"{i:03d}.png"
        )
        (root / f"{i:03d}.txt").write_text(f"number {i}", encoding="utf-8")
    return root


def test_a_file_that_vanishes_is_quarantined_and_costs_one_value(tmp_path):
    root = pictures(tmp_path / "pictures")
    dataset = data.open(root)
    gone = dataset.keys[int(dataset.split("train")[3])]
    (root / f"{gone}.png").unlink()
    run = pretrain("clip", dataset, tmp_path / "run", steps=12, **QUICK)
    assert [(bad.key, bad.field) for bad in read(run / "quarantine.jsonl")] == [(gone, "image")]
    assert "no such file" in read(run / "quarantine.jsonl")[0].reason


def test_data_that_vanishes_stops_the_run_and_keeps_its_checkpoint(tmp_path):
    root = pictures(tmp_path / "pictures", 400)
    dataset = data.open(root)
    taken = []

    def take(step: int) -> None:
        """Between two checkpoints somebody moves the folder."""
        if not taken and step == 2:
            taken.append(shutil.move(root, tmp_path / "moved"))

    save = checkpoint.save
    settings = QUICK | {"steps": 60, "checkpoint_every": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint, "save", lambda f, step, *rest: (save(f, step, *rest), take(step))[0]
        )
        dataset.cache.get = lambda d, i, field, limit: _fresh(
            d, i, field
        )  # as data too large for memory is read
        with pytest.raises(
            AmodalError, match="(?s)none of the last 3 batches.*no such file.*moved"
        ):
            pretrain("clip", dataset, tmp_path / "run", **settings)
    last = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert last is not None and load_file(last / "model.safetensors")
    shutil.move(tmp_path / "moved", root)
    pretrain("clip", root, tmp_path / "run", resume=True, **settings)


def _fresh(dataset, i: int, field: str):
    from amodal.modalities import BadValue

    try:
        return dataset.value(i, field)
    except BadValue as error:
        return error


@pytest.mark.filterwarnings("ignore:This DataLoader")
def test_a_killed_worker_is_reported_in_one_sentence(tmp_path):
    """The worker kills itself, as the kernel does when the memory runs out."""
    root = pictures(tmp_path / "pictures")
    script = f"""
import os, signal, torch
torch.set_num_threads(1)
from amodal.data.loader import Loader
from amodal.train.pretrain import pretrain
read = Loader.load_uncollated
def die(self, step):
    if step == 9 and torch.utils.data.get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, step)
Loader.load_uncollated = die
pretrain("clip", {str(root)!r}, {str(tmp_path / "run")!r}, steps=40, checkpoint_every=2, workers=1, **{QUICK!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "AmodalError: a process that decodes records ended" in last and "--resume" in last
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is not None
    pretrain("clip", root, tmp_path / "run", steps=40, checkpoint_every=2, resume=True, **QUICK)


def table(root: Path, **columns) -> Path:
    """Records in a Parquet file and what dataset.toml says of them: name -> (modality, values)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    pq.write_table(
        pa.table({name: values for name, (_, values) in columns.items()}), root / "records.parquet"
    )
    fields = [
        f'[fields.{n}]\nmodality = "{kind}"' for n, (kind, _) in columns.items() if kind != "label"
    ]
    labels = [f"[labels.{n}]" for n, (kind, _) in columns.items() if kind == "label"]
    (root / "dataset.toml").write_text(
        "\n".join(['records = "records.parquet"', *fields, *labels]), encoding="utf-8"
    )
    return root


def test_a_schema_that_changed_since_the_run_is_reported_by_every_verb(tmp_path):
    rng = np.random.default_rng(0)
    signal_, words = rng.normal(size=(60, 12, 1)).tolist(), [f"number {i}" for i in range(60)]
    kinds = [str(i % 3) for i in range(60)]
    old = table(
        tmp_path / "old", signal=("series", signal_), words=("text", words), kind=("label", kinds)
    )
    run = pretrain("clip", old, tmp_path / "run", steps=3, **QUICK)
    model = amodal.load(run)
    model.index(old)
    changed = {
        "the kind of a field": (
            table(
                tmp_path / "a", signal=("text", words), words=("text", words), kind=("label", kinds)
            ),
            "'signal' is text in .*, but series is expected",
        ),
        "the name of a field": (
            table(
                tmp_path / "b",
                signals=("series", signal_),
                words=("text", words),
                kind=("label", kinds),
            ),
            "no field .*'signal'.*signals",
        ),
    }
    for source, message in changed.values():
        for verb in (
            lambda s: model.embed(s),
            lambda s: write_vectors(model, s, tmp_path / "v.parquet", progress=False),
            lambda s: model.index(s),
            lambda s: model.evaluate(s, label="kind"),
            lambda s: pretrain("clip", s, tmp_path / "run", steps=3, resume=True, **QUICK),
        ):
            with pytest.raises(AmodalError, match=f"(?s){message}|another data|another encoder"):
                verb(source)
    assert (
        not (tmp_path / "v.parquet").exists()
        and len(amodal.load(run).search(text="number 3", k=2)) == 2
    )
    channels = table(
        tmp_path / "c",
        signal=("series", rng.normal(size=(60, 12, 2)).tolist()),
        words=("text", words),
    )
    embedded = model.embed(channels)
    assert {bad.field for bad in embedded.bad} == {
        "signal"
    } and "expected (steps, 1 channel)" in embedded.bad[0].reason
    with pytest.raises(AmodalError, match="kind"):
        model.evaluate(
            table(tmp_path / "d", signal=("series", signal_), words=("text", words)), label="kind"
        )
    with pytest.raises(AmodalError, match="signal"):
        model.search(sound="x.wav", k=1)


def test_data_of_which_nothing_can_be_read_is_reported(done, tmp_path, capsys):
    root = pictures(tmp_path / "pictures", 20)
    for file in root.iterdir():
        file.write_bytes(b"")
    (root / "dataset.toml").write_text(
        '[fields.image]\nmodality = "image"\n[fields.text]\nmodality = "text"\n', encoding="utf-8"
    )
    model = amodal.load(done)
    assert write_vectors(model, root, tmp_path / "v.parquet", progress=False) == 0
    assert "40 values could not be read" in capsys.readouterr().err
    with pytest.raises(AmodalError, match="(?s)none.*read"):
        pretrain("clip", root, tmp_path / "run", steps=2, **QUICK)


def test_a_kill_by_signal_leaves_no_half_file(folder, tmp_path):
    """SIGTERM is a request: the run ends after a step, with a checkpoint."""
    command = [
        sys.executable,
        "-m",
        "amodal",
        "pretrain",
        "clip",
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--size", "nano", "--steps", "100000", "--batch", "16"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and len(log.read_metrics(tmp_path / "run" / "metrics.jsonl")) < 2:
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is not None
    assert not [p for p in (tmp_path / "run").rglob("*") if ".draft" in p.name]
