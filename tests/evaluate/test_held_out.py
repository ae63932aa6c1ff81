"""Nothing that was trained on is tested on, whatever has become of the data since."""

import shutil

import numpy as np
import pytest

import amodal
from amodal import evaluation
from amodal.core import AmodalError
from amodal.data import Label
from amodal.evaluate import evaluate, usual_label
from amodal.train.run_dir import hash_keys

QUICK = dict(size="nano", steps=2, batch=16, progress=False)
KNN = dict(protocols=["knn"], untrained=False, progress=False)


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    return amodal.pretrain("clip", folder, tmp_path_factory.mktemp("runs") / "run", **QUICK)


def test_a_run_knows_what_it_was_trained_on(model, folder, tmp_path):
    records = amodal.open(folder)
    trained = hash_keys(records.keys[i] for i in records.split("train"))
    assert (
        sorted(trained.tolist())
        == model.trained.tolist()
        == np.load(model.path / "trained.npy").tolist()
    )
    loaded = amodal.load(model.save(tmp_path / "copy"))
    assert loaded.trained.tolist() == model.trained.tolist()
    loaded.trained = None
    assert amodal.load(loaded.save(tmp_path / "copy")).trained is None
    (tmp_path / "copy" / "trained.npy").write_bytes(b"no array")
    with pytest.raises(AmodalError, match="trained.npy.*cannot be read"):
        amodal.load(tmp_path / "copy")


def test_trained_records_are_left_out_of_the_test_when_the_split_has_changed(
    model, folder, monkeypatch, capsys
):
    fine = model.evaluate(folder, **KNN)
    assert "left_out" not in fine.about and "warning" not in fine.about
    records = amodal.open(folder)
    moved = records.split("train")[:10]
    changed = records.with_fields(model.fields)
    changed.parts = records.parts.copy()
    changed.parts[moved] = 2
    monkeypatch.setattr(evaluation, "read_partial", lambda data, fields: changed)
    report = model.evaluate(folder, **KNN)
    assert report.about["left_out"] == 10 and report.about["test"] == fine.about["test"]
    assert report.test.keys == fine.test.keys
    assert "10 left out that were trained on" in report.table().title
    assert "10 left out" not in fine.table().title and "warning" not in capsys.readouterr().err
    changed.parts = np.where(records.parts == 0, 2, 0).astype(np.int8)
    with pytest.raises(
        AmodalError,
        match="could be tested on have the keys of records that this run was trained on",
    ):
        model.evaluate(folder, **KNN)
    assert evaluate(model.encoder, changed, protocols=["knn"], progress=False).about["test"] == len(
        model.trained
    ), "an encoder does not know"


def test_data_under_other_keys_brings_a_warning(model, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "deeper" / "photos")
    report = model.evaluate(tmp_path / "deeper", label=None, **KNN | {"protocols": ["retrieval"]})
    said = capsys.readouterr().err
    assert "warning" in report.about and "trained on none of its keys" in said and "flatter" in said
    assert "cannot be recognised" in report.table().caption
    same = model.evaluate(shutil.copytree(folder, tmp_path / "photos"), **KNN)
    assert "warning" not in same.about, "another place, the same keys"


def test_row_numbers_and_runs_that_do_not_know_bring_a_warning(tmp_path):
    def arrays(seed, n):
        x = np.random.default_rng(seed).normal(size=(2, n, 4)).astype(np.float32)
        return {"a": list(x[0]), "b": list(x[1])}

    model = amodal.pretrain("clip", arrays(0, 100), tmp_path / "run", **QUICK)
    quiet = dict(protocols=["retrieval"], untrained=False, progress=False)
    assert "warning" not in model.evaluate(arrays(0, 100), **quiet).about
    assert "row numbers" in model.evaluate(arrays(1, 120), **quiet).about["warning"]
    model.trained = None
    assert "does not say" in model.evaluate(arrays(1, 120), **quiet).about["warning"]


def test_names_of_files_that_are_numbers_are_not_called_row_numbers(model, folder, tmp_path):
    for file in folder.glob("*/*"):
        shutil.copy(file, tmp_path / file.name)
    report = model.evaluate(tmp_path, **KNN | {"protocols": ["retrieval"]})
    assert "its keys are numbers, such as 000, that others may have" in report.about["warning"]
    assert "row numbers" not in report.about["warning"]


def test_the_label_that_is_predicted_if_none_is_named():
    rng = np.random.default_rng(0)
    cells = {
        "x": list(rng.normal(size=(60, 3)).astype(np.float32)),
        "size": [i / 7 for i in range(60)],
        "one": ["same"] * 60,
        "place": [f"p{i // 2}" for i in range(60)],
        "colour": ["red", "green", "blue"] * 20,
        "sex": ["f", "m"] * 30,
        "Species": [f"s{i % 10}" for i in range(60)],
    }

    def chosen(*names):
        records = amodal.open(cells)
        records.labels.clear()
        records.labels.update(
            {n: Label(kind="number" if n == "size" else "category") for n in names}
        )
        return usual_label(records)

    assert chosen("size", "place", "colour", "sex", "Species") == ["Species"]
    assert chosen("size", "place", "colour", "sex") == ["sex"]
    assert chosen("size", "one", "place", "colour") == ["colour"]
    assert chosen("one", "size") == ["size"]
    assert chosen("one") == ["one"] and chosen() == []
