"""`pretrain --curate jest` and `pretrain --init-from RUN`, from the command line's words to the run
folder."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import amodal
from amodal import cli
from amodal.train.pretrain import pretrain


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    names = [
        f"{c} {s}" for c in ("red", "blue", "green") for s in ("boat", "house", "star", "tree")
    ]
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(120)]
    return amodal.open({"image": pictures, "text": [names[i % 12] + f" {i}" for i in range(120)]})


@pytest.fixture(scope="module")
def clean(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "clean"
    return pretrain("siglip", records, out, size="nano", steps=2, batch=16, progress=False)


def test_a_run_that_chooses_says_so_and_resumes_bit_for_bit(records, clean, tmp_path):
    common = {
        "size": "nano",
        "batch": 8,
        "progress": False,
        "curate": "jest",
        "checkpoint_every": 2,
    }
    common["curate_options"] = {"reference": str(clean), "keep": "0.25", "chunks": 2}
    straight = pretrain("siglip", records, tmp_path / "straight", steps=4, **common)
    config = json.loads((straight / "config.json").read_text(encoding="utf-8"))
    assert (
        config["batch"] == 8
        and config["curation"]["trained"] == 32
        and config["curation"]["scored"] == 128
    )
    assert config["schedule"]["curate"]["name"] == "jest"
    for later in (straight / "checkpoints").glob("step-00000004*"):
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    before = (straight / "model.safetensors").read_bytes()
    pretrain("siglip", records, straight, steps=4, resume=True, **common)
    assert (straight / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="another schedule"):
        pretrain(
            "siglip",
            records,
            straight,
            steps=4,
            resume=True,
            **common | {"curate_options": {"score": "hard"}},
        )


def test_a_run_begins_with_the_weights_of_another(records, clean, tmp_path):
    out = pretrain(
        "clip",
        records,
        tmp_path / "run",
        size="nano",
        steps=1,
        batch=16,
        lr=1e-12,
        init_from=clean,
        progress=False,
    )
    mine, its = (amodal.load(folder).encoder.state_dict() for folder in (out, clean))
    assert mine.keys() == its.keys()
    for name in its:
        torch.testing.assert_close(mine[name], its[name], atol=1e-6, rtol=0, msg=name)


def test_a_teacher_begins_with_them_too(records, clean, tmp_path):
    settings = {
        "size": "nano",
        "steps": 1,
        "batch": 16,
        "lr": 1e-12,
        "init_from": clean,
        "progress": False,
    }
    out = pretrain("data2vec", records.select(["image"]), tmp_path / "run", **settings)
    weights = load_file(next((out / "checkpoints").glob("step-*/model.safetensors")))
    its = amodal.load(clean).encoder.state_dict()
    same = [name for name in its if f"method.teacher.{name}" in weights]
    assert "field_token.image" in same and len(same) > 10
    for name in same:
        torch.testing.assert_close(
            weights[f"method.teacher.{name}"], its[name], atol=1e-6, rtol=0, msg=name
        )


def test_a_run_of_another_size_is_rejected_or_reported(records, clean, tmp_path, capsys):
    pretrain(
        "clip",
        records,
        tmp_path / "told",
        size="nano",
        pool="attention",
        steps=1,
        batch=16,
        init_from=clean,
    )
    assert "weights taken from" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--size nano"):
        pretrain(
            "clip",
            records,
            tmp_path / "refused",
            size="small",
            steps=1,
            batch=16,
            init_from=clean,
            progress=False,
        )


def test_options_of_the_choice_go_to_its_page(capsys):
    rest, options = cli.take_method_options(
        ["pretrain", "clip", "--curate", "jest", "--curate.keep", "0.5"], "--curate."
    )
    assert rest == ["pretrain", "clip", "--curate", "jest"] and options == {"keep": "0.5"}
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "clip", "--data", "globe", "--out", "x", "--curate.keep", "0.5"])
    assert "--curate NAME" in capsys.readouterr().err
