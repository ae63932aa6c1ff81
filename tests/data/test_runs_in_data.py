"""A run that lies among its data is none of the records."""

import pytest
from PIL import Image

import amodal
from amodal.core import AmodalError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (16, 16), (8 * i, 200, 9)).save(folder / f"{i}.png")
    return folder


def test_a_run_in_a_folder_below_is_passed_over(photos):
    before = amodal.open(photos)
    options = dict(size="nano", steps=1, progress=False)
    model = amodal.pretrain("simclr", photos, photos / "run", **options)
    after = amodal.open(photos)
    assert after.keys == before.keys and list(after.fields) == ["image"]
    assert len(model.index(photos)) == 30


def test_a_run_in_the_folder_of_the_data_is_refused(photos):
    with pytest.raises(AmodalError, match="holds the data(.|\n)*photos/run"):
        amodal.pretrain("simclr", photos, photos, size="nano", steps=1, progress=False)
    assert not (photos / "config.json").exists()


@pytest.mark.parametrize("to", ["safetensors", "huggingface", "onnx"])
def test_a_model_that_is_exported_into_the_data_is_passed_over(photos, tmp_path, to):
    if to == "huggingface":
        pytest.importorskip("transformers")
    if to == "onnx":
        pytest.importorskip("onnx")
    (photos / "deeper").mkdir()
    (photos / "0.png").rename(photos / "deeper" / "0.png")
    before = amodal.open(photos)
    options = dict(size="nano", steps=1, progress=False)
    model = amodal.pretrain("simclr", photos, tmp_path / "run", **options)
    model.export(photos, to=to)
    after = amodal.open(photos)
    assert after.keys == before.keys and list(after.fields) == ["image"]


def test_files_of_the_user_with_names_of_a_model_are_records(tmp_path):
    for name in ("config", "spec", "fields"):
        (tmp_path / f"{name}.json").write_text('{"a": 1.5, "b": 2}', encoding="utf-8")
    for i in range(20):
        (tmp_path / f"{i}.json").write_text(f'{{"a": {i}.5, "b": 1}}', encoding="utf-8")
    assert {"config", "spec", "fields"} <= set(amodal.open(tmp_path).keys)
