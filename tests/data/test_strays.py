"""Files of a folder that are hardly of its records."""

import warnings

import numpy as np
import pytest
import soundfile
from PIL import Image as Picture

import amodal
from amodal.cli import main
from amodal.core import AmodalWarning


def picture(file, i):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Picture.fromarray(noise).save(file)


def tables(root, column, cell):
    """Pictures in a folder, and beside it the tables train.csv and test.csv about them."""
    for i in range(50):
        picture(root / "images" / f"{i}.png", i)
    for name, numbers in (("train", range(40)), ("test", range(40, 50))):
        rows = [f"{cell.format(i)},a picture of the thing {i} somewhere" for i in numbers]
        text = "\n".join([f"{column},caption", *rows])
        (root / f"{name}.csv").write_text(text, encoding="utf-8")


def test_tables_that_name_the_files_are_the_records_and_the_parts(tmp_path):
    tables(tmp_path, "image", "images/{}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = amodal.init(tmp_path)
    assert "each of test.csv, train.csv is a part of the split" in report.notes()
    assert 'records = ["test.csv", "train.csv"]' in (tmp_path / "dataset.toml").read_text(
        encoding="utf-8"
    )
    dataset = amodal.open(tmp_path)
    assert set(dataset.fields) == {"image", "caption"} and len(dataset) == 50
    assert len(dataset.split("test")) == 10
    assert {dataset.raw(int(i), "caption")[-12:-10] for i in dataset.split("test")} == {
        str(i) for i in range(40, 50)
    }


@pytest.mark.parametrize(("column", "cell"), [("id", "{}"), ("image", "{}.png")])
def test_of_other_tables_one_sentence_says_what_became_of_them(tmp_path, column, cell, capsys):
    tables(tmp_path, column, cell)
    for act in (amodal.open, lambda path: main(["init", str(path)])):
        with pytest.warns(AmodalWarning) as caught:
            act(tmp_path)
        (message,) = {str(one.message) for one in caught}
        assert "so are test.csv, train.csv, which are read as series" in message
        assert 'write records = ["test.csv", "train.csv"] in dataset.toml' in message


def test_nothing_is_said_of_series_beside_their_pictures(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.csv").write_text("x,y\n1,2\n3,4\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(amodal.open(tmp_path).fields) == {"image", "series"}


@pytest.fixture
def sounds(tmp_path):
    """And one picture, which falls in the validation part."""
    (tmp_path / "data").mkdir()
    for i in range(96):
        wave = np.random.default_rng(i).normal(0, 0.1, 800)
        soundfile.write(tmp_path / "data" / f"{i}.wav", wave, 8000)
    picture(tmp_path / "data" / "s2.png", 0)
    return tmp_path / "data"


def test_a_field_of_one_record_is_named_with_its_file(sounds):
    (line,) = amodal.init(sounds).warnings()
    assert line.startswith("only 1 of 97 records has the field 'image' (s2.png): to leave it out")
    toml = sounds / "dataset.toml"
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text[: text.index("[fields.image]")], encoding="utf-8")
    assert len(amodal.open(sounds)) == 96


def test_a_training_warns_once_of_a_field_that_no_record_has(sounds, tmp_path):
    settings = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False}
    with pytest.warns(AmodalWarning) as caught:
        amodal.pretrain("simclr", sounds, tmp_path / "run", **settings)
    none = [str(one.message) for one in caught if "has the field 'image'" in str(one.message)]
    assert len(none) == 1 and len(amodal.open(sounds).split("train")) == 74
