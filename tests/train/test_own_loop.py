"""An encoder that a loop of the user's own has trained becomes a model."""

import json

import numpy as np
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
