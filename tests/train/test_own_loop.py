"""An encoder that a loop of the user's own has trained becomes a model."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Subset

import amodal
from amodal.core import AmodalError


def columns(n=60):
    rng = np.random.default_rng(0)
    return {
        "wave": [rng.normal(i % 3, 1, (16, 2)).astype(np.float32) for i in range(n)],
        "motion": [rng.normal(-(i % 3), 1, (12, 3)).astype(np.float32) for i in range(n)],
        "label": [f"class {i % 3}" for i in range(n)],
    }


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    dataset = amodal.as_dataset(columns())
    encoder = amodal.Encoder(dataset.fields, size="nano")
    method = amodal.methods.build("clip", encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    rows = Subset(dataset, dataset.split("train"))
    for batch in DataLoader(rows, batch_size=16, drop_last=True, collate_fn=dataset.collate):
        loss = sum(method.losses(method.features(batch)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(v, before[n]) for n, v in encoder.state_dict().items())
    return dataset, encoder


def test_it_is_saved_and_opened(trained, tmp_path):
    dataset, encoder = trained
    model = amodal.Model.of(encoder, dataset, dataset.split("train"))
    model.save(tmp_path / "mine")
    opened = amodal.load(tmp_path / "mine")
    np.testing.assert_array_equal(opened.encode(columns(6)), model.encode(columns(6)))
    assert "by a loop of the user's own" in (tmp_path / "mine" / "README.md").read_text(
        encoding="utf-8"
    )
    config = json.loads((tmp_path / "mine" / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["train"] == len(dataset.split("train"))


def test_what_it_was_trained_on_is_not_tested_on(trained):
    dataset, encoder = trained
    settings = dict(label="label", protocols=["knn"], simple=False, progress=False)
    report = amodal.Model.of(encoder, dataset, dataset.split("train")).evaluate(dataset, **settings)
    assert report.about["test"] <= len(dataset) - len(dataset.split("train"))
    assert "knn" in str(report) and "┃" in str(report), "a report prints as its table"
    with pytest.raises(AmodalError):  # all records were trained on
        amodal.Model.of(encoder, dataset).evaluate(dataset, **settings)


def test_a_mask_and_numbers_are_the_same_rows(trained):
    dataset, encoder = trained
    mask = dataset.parts == 0
    by_mask, by_number = (
        amodal.Model.of(encoder, dataset, rows) for rows in (mask, np.flatnonzero(mask).repeat(2))
    )
    assert (by_mask.trained == by_number.trained).all()
    assert by_mask.config["data"]["train"] == by_number.config["data"]["train"] == mask.sum()


@pytest.mark.parametrize("rows", [[60], [-1, 3], [0.5, 1.7], "train", [[1, 2]], [True, False]])
def test_rows_are_records(trained, rows):
    dataset, encoder = trained
    with pytest.raises(AmodalError, match="rows are (the )?numbers of the"):
        amodal.Model.of(encoder, dataset, rows)


def test_the_data_has_the_fields(trained):
    with pytest.raises(AmodalError, match="no field"):
        amodal.Model.of(trained[1], {"sound": columns()["wave"]})


def mistakes():
    """What people do in a loop of their own -> what they are to be told."""
    a_batch = r"a batch is expected, not .*collate_fn=dataset.collate"
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    return {
        "features of a frame": (lambda d, m: m.features(frame), a_batch),
        "features of items": (lambda d, m: m.features([d[0]]), a_batch),
        "features of nothing": (lambda d, m: m.features(None), "expected, not None"),
        "the encoder on a frame": (lambda d, m: m.encoder(frame), a_batch),
        "losses of nothing": (lambda d, m: m.losses(None), "losses are of what `features` .*None"),
        "losses of a batch": (
            lambda d, m: m.losses(d.collate([d[0]])),
            "returns, .*not of a Batch",
        ),
        "an encoder of a frame": (lambda d, m: amodal.Encoder(frame), "name -> modality .*DataFr"),
        "an encoder of a dataset": (lambda d, m: amodal.Encoder(d), r"as_dataset\(data\).fields"),
        "an encoder of names": (
            lambda d, m: amodal.Encoder({"x": "audio"}),
            "'x' needs a modality, .*not 'audio'",
        ),
        "a model of nothing": (lambda d, m: amodal.Model.of(None, d), "the encoder that was tr"),
        "a model of a method": (lambda d, m: amodal.Model.of(m, d), "give its .encoder"),
        "a method of nothing": (lambda d, m: amodal.methods.build("clip", None), "around an enc"),
        "a batch of numbers": (lambda d, m: d.collate([1, 2]), r"\[dataset\[0\], .*not 1$"),
        "a loader of nothing": (lambda d, m: amodal.data.Loader(None, None, batch=3), "a Dataset"),
        "a loader of no rows": (lambda d, m: amodal.data.Loader(d, None, batch=3), "not by None"),
        "a loader of a part": (lambda d, m: amodal.data.Loader(d, "train", batch=3), "by 'train'"),
        "a batch of no size": (
            lambda d, m: amodal.data.Loader(d, [0, 1], batch=None),
            "batch must be a whole number",
        ),
    }


@pytest.mark.parametrize("mistake", mistakes())
def test_mistakes_are_one_sentence(trained, mistake):
    dataset, encoder = trained
    make, message = mistakes()[mistake]
    with pytest.raises(AmodalError, match=message) as error:
        make(dataset, amodal.methods.build("clip", encoder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_torch_without_collate_fn_says_what_to_pass(workers):
    records = columns(6)
    records["wave"][1] = None
    lacks = amodal.as_dataset(records)
    with pytest.raises(AmodalError, match="has no 'wave', .* pass collate_fn=dataset.collate to"):
        next(iter(DataLoader(lacks, batch_size=4, num_workers=workers)))
    records["wave"][1] = np.zeros((9, 2), np.float32)
    unequal = amodal.as_dataset(records)
    with pytest.raises(AmodalError, match="cannot stack .* pass collate_fn=dataset.collate"):
        next(iter(DataLoader(Subset(unequal, [0, 1]), batch_size=2, num_workers=workers)))


def test_what_torch_can_stack_it_still_does():
    dataset = amodal.as_dataset(columns(6))
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert type(batch) is dict and batch["wave"].shape == (4, 16, 2)
    assert batch["__key__"] == dataset.keys[:4]
    alone = next(iter(DataLoader(dataset, batch_size=None)))
    np.testing.assert_array_equal(alone["wave"], dataset[0]["wave"])
    assert pickle.loads(pickle.dumps(dataset[0])).keys() == dataset[0].keys()


def test_the_rooms_of_a_loop_need_no_import():
    code = "import amodal; print(amodal.methods.build.__name__, amodal.data.Loader.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["build", "Loader"]
