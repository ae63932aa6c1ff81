"""What `init` says of data that could have been read otherwise."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

import amodal
from amodal import modalities
from amodal.data.readers._written_numbers import has_decimal_commas
from amodal.data.readers.table import SUFFIXES


def noise(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(path)


def test_a_stray_ending_is_no_field_of_its_own(tmp_path):
    for i in range(12):
        noise(tmp_path / f"{i}.png", i)
    noise(tmp_path / "3.jpg", 3)
    noise(tmp_path / "20.jpg", 20)
    dataset = amodal.open(tmp_path)
    assert list(dataset.fields) == ["image"] and len(dataset) == 13
    assert "second file for image: 1 times" in str(amodal.init(tmp_path))


def test_endings_that_come_together_are_fields(tmp_path):
    for i in range(6):
        noise(tmp_path / f"{i}.png", i)
        noise(tmp_path / f"{i}.jpg", i)
    assert set(amodal.open(tmp_path).fields) == {"png", "jpg"}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,5", "2,25", "-0,1", "3", ""], True),
        (["1,234", "2,500"], False),  # a thousand?
        (["1,234", "2,5"], True),
        (["0,195", "-0,012", "1,234"], True),
        (["1", "2"], False),
        (["1,5", "a"], False),
        (["1.234,5", "2,5"], False),
        (["1,5e-3", ",5"], True),
    ],
)
def test_decimal_commas(cells, expected):
    assert has_decimal_commas(cells) == expected


def test_commas_that_may_divide_thousands_and_a_line_without_names_are_said(tmp_path):
    table = tmp_path / "t.csv"
    rows = "\n".join(f"{i}{i}{i};{i},23{i};some words for {i}" for i in range(1, 10))
    table.write_text("n;price;words\n" + rows, encoding="utf-8")
    (note,) = (n for n in amodal.init(table).notes() if "thousands" in n)
    assert note.startswith("price: read as text") and "write 1234 or 1.234" in note
    table.write_text("\n".join(f"{i / 7:.4f},{i / 3:.4f}" for i in range(1, 30)), encoding="utf-8")
    notes = amodal.init(table, force=True).notes()
    assert any(
        note.startswith("the first line names the columns, and has numbers: 0.1429, 0.3333.")
        for note in notes
    )


def test_decimal_commas_are_read_and_said(tmp_path):
    lines = [f"{i},5;{i * 2};{i + 1},{i + 100};x{i % 3}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a;b;c;city", *lines]), encoding="utf-8")
    report = str(amodal.init(tmp_path / "t.csv"))
    assert "decimal commas: a are read as numbers" in report
    dataset = amodal.open(tmp_path / "t.csv")
    assert dataset.raw(3, "table")["a"] == 3.5 and dataset.raw(3, "table")["b"] == 6


def test_the_column_of_names_is_said(tmp_path):
    lines = [f"k{i},a sentence about thing {i} of many" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["code,text", *lines]), encoding="utf-8")
    assert "records are called by the column 'code'" in str(amodal.init(tmp_path / "t.csv"))


def test_arrays_may_be_pictures(tmp_path):
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=(64, 3)))
    report = " ".join(str(amodal.init(tmp_path)).split())
    assert "arrays of (64, 3) are read as 64 steps of 3 channels" in report
    assert 'modality = "image"' in report


def test_the_page_lists_every_ending():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    listed = {}
    for kind, endings in re.findall(r"^\| (\w+) \| (\.[^|]*?) *\|$", text, re.M):
        listed[kind] = set(re.findall(r"(?<![\w.])\.\w+(?:\.\w+)?", endings.partition(",")[0]))
    known = modalities.suffixes()
    for kind in {*known.values()}:
        assert listed[kind] == {ending for ending, of in known.items() if of == kind}, kind
    assert SUFFIXES <= listed["records"]
