"""Files of the user's in a folder that a model is written to."""

import json

import pytest

import amodal
from amodal.core import AmodalError
from amodal.export import export
from tests.export.models import encoder, model, records
from tests.export.test_weights import CARD


def made():
    one = model(encoder("photo", "caption").align(16))
    one.config |= CARD
    return one


FOREIGN = {
    "README.md": "# My project\n\nIt uses `amodal.load`.\n",
    "config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]}),
    "model.safetensors": "weights of another",
}
WRITERS = {
    "save": lambda out: made().save(out),
    "save_pretrained": lambda out: made().save_pretrained(out),
    "safetensors": lambda out: export(made(), "safetensors", out),
    "huggingface": lambda out: export(made(), "huggingface", out),
    "pretrain": lambda out: pretrain(out),
}


def pretrain(out, **settings):
    settings = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False} | settings
    return amodal.pretrain("clip", records(), out, **settings)


def content(folder):
    return {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("write", WRITERS)
def test_a_file_of_the_user_is_not_overwritten(write, name, tmp_path):
    (tmp_path / name).write_text(FOREIGN[name], encoding="utf-8")
    before = content(tmp_path)
    with pytest.raises(AmodalError, match=f"{name} is there already and was not written by amodal"):
        WRITERS[write](tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("form", "file"),
    [("huggingface", "photo/me.jpg"), ("onnx", "photo.onnx"), ("onnx", "fields.json")],
)
def test_nor_is_one_that_an_export_is_called(form, file, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}", encoding="utf-8")
    before = content(tmp_path)
    with pytest.raises(AmodalError, match="was not written by amodal"):
        export(made(), form, tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("write", ["save", "save_pretrained", "safetensors", "huggingface"])
def test_what_we_wrote_is_written_over(write, tmp_path):
    WRITERS[write](tmp_path)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    WRITERS[write](tmp_path)
    assert "notes.txt" in content(tmp_path)


def test_a_run_goes_on_and_is_saved_in_its_folder(tmp_path):
    pretrain(tmp_path)
    pretrain(tmp_path, resume=True)
    amodal.load(tmp_path).save(tmp_path)
    (tmp_path / "README.md").write_text(FOREIGN["README.md"], encoding="utf-8")
    with pytest.raises(AmodalError, match="README.md is there already"):
        pretrain(tmp_path, resume=True)


def test_a_save_that_was_killed_is_repeated(tmp_path):
    made().save(tmp_path)
    (tmp_path / "config.json").unlink()  # it comes last
    made().save(tmp_path)
    assert (tmp_path / "config.json").is_file()
