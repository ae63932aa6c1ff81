"""A pipe where a file is expected: to open it would wait for ever."""

import os
import signal

import numpy as np
import pytest
import soundfile
from PIL import Image as Picture

import amodal
from amodal.core import AmodalError
from amodal.data.infer import init
from amodal.train.log import read_metrics
from amodal.train.run_dir import read_trained
from tests.export.models import encoder, model


@pytest.fixture(autouse=True)
def at_most_a_minute():
    """A test that waits for a pipe fails, and does not stop the suite."""

    def stop(*_):
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def picture(file, i):
    noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Picture.fromarray(noise).save(file)


def sound(file, i):
    soundfile.write(file, np.random.default_rng(i).normal(0, 0.1, 4000), 8000)


def series(file, i):
    np.save(file, np.random.default_rng(i).normal(size=(30, 2)))


def text(file, i):
    file.write_text(f"a text of some words, and its number is {i}", encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "ending"), [(picture, ".png"), (sound, ".wav"), (series, ".npy"), (text, ".txt")]
)
def test_a_pipe_that_a_cell_names_is_one_unreadable_value(write, ending, tmp_path):
    names = [f"{i}{ending}" for i in range(21)]
    for i, name in enumerate(names):
        os.mkfifo(tmp_path / name) if i == 7 else write(tmp_path / name, i)
    table = tmp_path / "t.csv"
    table.write_text("file\n" + "\n".join(names) + "\n", encoding="utf-8")
    report = init(table)
    (field,) = report.fields
    assert field.unreadable == pytest.approx(1 / 21)
    assert field.reason.endswith("it is no file, but a pipe")


def test_a_pipe_among_tables_and_as_schema_is_named(tmp_path):
    os.mkfifo(tmp_path / "more.jsonl")
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 2}\n', encoding="utf-8")
    (tmp_path / "dataset.toml").write_text(
        'records = "*.jsonl"\n[fields.x]\nmodality = "text"\n', encoding="utf-8"
    )
    with pytest.raises(AmodalError, match="no file or folder, but a pipe"):
        amodal.open(tmp_path)
    (tmp_path / "dataset.toml").unlink()
    os.mkfifo(tmp_path / "dataset.toml")
    for path in (tmp_path, tmp_path / "dataset.toml"):
        with pytest.raises(AmodalError, match=r"dataset.toml .*it is no file, but a pipe"):
            amodal.open(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "spec.json"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_named(name, tmp_path):
    made = model(encoder("photo").align(16))
    made.config |= {"method": "clip", "options": {}, "schedule": {}, "batch": 4, "seed": 0} | {
        "data": {"name": "toys", "records": 30, "train": 24, "fingerprint": "0"}
    }
    made.save(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(AmodalError, match=f"{name} cannot be read.*it is no file, but a pipe"):
        amodal.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "read"),
    [("metrics.jsonl", read_metrics), ("trained.npy", lambda f: read_trained(f.parent))],
)
def test_a_pipe_beside_a_run_is_named(name, read, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(AmodalError, match=f"{name}.*it is no file, but a pipe"):
        read(tmp_path / name)
