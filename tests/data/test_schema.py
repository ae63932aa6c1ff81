import pytest

import amodal.data as data
from amodal import modalities
from amodal.core import AmodalError
from amodal.data import schema
from tests.data import builders as b

GOOD = """
name = "pictures"
title = "Some pictures"
records = ["a.csv", "b.csv"]
key = "id"
split_by = "site"

[fields.photo]
modality = "image"
column = "file"
size = 16

[fields.words]
modality = "text"
suffix = [".caption"]
from = "words"

[labels.species]

[labels.depth]
kind = "number"
unit = "metre"
"""


def test_round_trip():
    read = schema.loads(GOOD)
    assert read.fields["photo"].modality.size == 16 and read.fields["photo"].declared == ("size",)
    assert read.fields["words"].within == "words" and read.labels["species"].kind == "category"
    text = schema.dumps(read, {"": "two\nlines", "fields.photo": "a comment", "split_by": "why"})
    second = schema.loads(text)
    assert (
        schema.dumps(second, {"": "two\nlines", "fields.photo": "a comment", "split_by": "why"})
        == text
    )
    assert second.labels == read.labels and second.records == read.records
    assert {n: f.modality for n, f in second.fields.items()} == {
        n: f.modality for n, f in read.fields.items()
    }


def test_long_lists_and_odd_text_survive():
    columns = [f'column "{i}", number {i}' for i in range(60)]
    field = schema.Field(
        modalities.make(
            "table", columns=columns, categories={columns[0]: ["a b", 'c"d', "e\\f"] * 20}
        )
    )
    text = schema.dumps(schema.Schema({"t": field}))
    assert schema.loads(text).fields["t"].modality == field.modality
    assert max(map(len, text.splitlines()[:20])) < 140


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "split_by",
            "splitby",
            r"line 6: no key of dataset.toml is called 'splitby'. Did you mean split_by",
        ),
        (
            "size = 16",
            "sise = 16",
            r"line 11: no key of \[fields.photo\] is called 'sise'. Did you mean size",
        ),
        ('"image"', '"imag"', r"line 9: no modality is called 'imag'. Did you mean image"),
        ('"number"', '"numbr"', r"no kind of label is called 'numbr'. Did you mean number"),
        ("unit", "units", r"no key of \[labels.depth\] is called 'units'. Did you mean unit"),
        ('key = "id"', "key = 3", "key must be text, got 3"),
        (
            "size = 16",
            'size = "big"',
            r"\[fields.photo\]: image.size must be a whole number, got 'big'",
        ),
        (
            'modality = "text"',
            "",
            r"\[fields.words\] needs a modality: one of audio, events, image",
        ),
        ("[fields.photo]", "[fields.photo", "line 8: this is not TOML"),
        ("[fields.photo]", '[fields."photo:1"]', "cannot be called 'photo:1'"),
        ('["a.csv", "b.csv"]', "[1]", "records must be text or a list of texts"),
    ],
)
def test_mistakes(tmp_path, old, new, message):
    path = tmp_path / "dataset.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(AmodalError, match=message):
        schema.load(path)


def test_no_field(tmp_path):
    (tmp_path / "dataset.toml").write_text('name = "x"\n', encoding="utf-8")
    with pytest.raises(AmodalError, match="describes no field"):
        data.open(tmp_path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            '"file"',
            '"fil"',
            r"\[fields.photo\] in dataset.toml: no column of this data is called 'fil'. Did you mean file",
        ),
        ("[labels.species]", "[labels.specie]", r"\[labels.specie\] .*Did you mean species"),
        ('key = "id"', 'key = "ids"', "no column of this data is called 'ids'. Did you mean id"),
        ('"weight"', '"weigth"', "Did you mean weight"),
        (
            "records.csv",
            "record.csv",
            "no file or folder in .* is called 'record.csv'. Did you mean records.csv",
        ),
        ("records.csv", "*.tsv", "no file in .* matches"),
        ('"species"', '"specis"', "split_by.* Did you mean species"),
    ],
)
def test_columns_that_the_data_lacks(tmp_path, old, new, message):
    b.table(tmp_path, "csv")
    good = """
records = "records.csv"
key = "id"
split_by = "species"
[fields.photo]
modality = "image"
column = "file"
[fields.sizes]
modality = "table"
columns = ["weight", "height"]
[labels.species]
"""
    path = tmp_path / "dataset.toml"
    path.write_text(good, encoding="utf-8")
    assert data.open(tmp_path).value(1, "sizes").tolist() == [1.5, 11]
    path.write_text(good.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(AmodalError, match=message):
        data.open(tmp_path)


def test_wrong_paths(tmp_path):
    b.folder(tmp_path / "pictures")
    with pytest.raises(AmodalError, match="is called 'picture'. Did you mean pictures"):
        data.open(tmp_path / "picture")
    with pytest.raises(AmodalError, match="is called 'picture'. Did you mean pictures"):
        data.open(tmp_path / "picture" / "dog" / "x.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AmodalError, match="no files in"):
        data.open(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.abc").write_text("?", encoding="utf-8")
    with pytest.raises(AmodalError, match=r"There are \*.abc; expected any of .*\*.png"):
        data.open(tmp_path / "other")
    with pytest.raises(AmodalError, match="is no data that can be read"):
        data.open(tmp_path / "other" / "a.abc")
