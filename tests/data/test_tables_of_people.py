"""Tables as spreadsheets and people write them, and folders of them."""

import pytest

import amodal
from amodal.core import AmodalError
from amodal.data import infer_schema
from amodal.data.readers._written_numbers import has_thousands


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_thousands_and_fractions_of_a_spreadsheet_are_numbers(tmp_path):
    rows = [f"1.{i:03d},{i % 100:02d};some text {i}" for i in range(60)]
    data = amodal.open(table(tmp_path / "a" / "x.csv", "Umsatz;note", rows))
    assert data.fields["table"].columns == ("Umsatz",) and data.raw(7, "table") == {
        "Umsatz": 1007.07
    }
    rows = [f'"1,{i:03d}.5",some text {i}' for i in range(60)]
    path = table(tmp_path / "b" / "x.csv", "sum,note", rows)
    assert amodal.open(path).raw(7, "table") == {"sum": 1007.5}
    assert "commas between thousands: sum" in str(amodal.init(path))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.234,5", "7", "1.234"], True),
        (["1.234", "5,5"], False),  # no number has both marks
        (["1.23,5", "1.234,5"], False),
        (["1.234,5", "many"], False),
        (["1.234,", "1.234,5"], False),
    ],
)
def test_a_mark_between_thousands_is_sure_where_a_number_has_both(cells, expected):
    assert has_thousands(cells, ".", ",") == expected


@pytest.mark.parametrize("cell", ["{}%", "€{}", "{}€", "1'{:03d}.50"])
def test_amounts_do_not_name_the_records(cell, tmp_path):
    rows = [f"{cell.format(i)},some text {i}" for i in range(60)]
    data = amodal.open(table(tmp_path / "x.csv", "amount,note", rows))
    assert data.schema.key == ""


@pytest.mark.parametrize("name", ["10.0.0.1", "1.2.3", "AB-12.5", "2024/001", "07.5.x"])
def test_names_with_points_are_no_amounts(name):
    assert not infer_schema.AMOUNT.fullmatch(name)


def test_the_line_that_names_the_delimiter_is_none_of_names(tmp_path):
    rows = ["a;note", *(f"{i},5;some text {i}" for i in range(40))]
    data = amodal.open(table(tmp_path / "x.csv", "sep=;", rows))
    assert len(data) == 40 and set(data.fields) == {"note", "table"}


def test_a_first_record_in_the_place_of_names_is_said(tmp_path):
    path = table(tmp_path / "a" / "x.csv", "1.5,some text", [f"{i}.5,text {i}" for i in range(40)])
    assert "has numbers: 1.5. If it is a record" in str(amodal.init(path))
    with pytest.raises(AmodalError, match="Is it one of names"):
        amodal.open(table(tmp_path / "b" / "x.csv", "0,0,a", ["1,2,b"]))


def test_tables_called_after_parts_are_the_records(tmp_path):
    for name, count in (("train", 40), ("test", 10)):
        rows = [f"{i / 7},some text {i} of {name}" for i in range(count)]
        table(tmp_path / f"{name}.csv", "a,note", rows)
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    data = amodal.open(tmp_path)
    assert len(data) == 50 and len(data.split("test")) == 10


def test_few_tables_that_are_taken_for_series_are_said(tmp_path):
    for name in "ab":
        table(tmp_path / f"{name}.csv", "x,y", [f"{i},{i / 7}" for i in range(40)])
    with pytest.warns(UserWarning, match='write records = \\["a.csv", "b.csv"\\]'):
        assert len(amodal.open(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "words"), [("x.zip", "unpack"), ("x.xlsx", "as CSV"), ("x.csv.gz", "unpack")]
)
def test_what_to_do_with_other_files(name, words, tmp_path):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(AmodalError, match=words):
            amodal.open(path)


def test_a_second_table_in_a_folder_is_no_mistake(tmp_path):
    rows = [f"{i / 7},some text {i}" for i in range(40)]
    amodal.init(table(tmp_path / "one.csv", "a,note", rows))
    table(tmp_path / "two.csv", "b,other", rows)
    with pytest.raises(AmodalError, match="describes one.csv, not two.csv"):
        amodal.init(tmp_path / "two.csv")
    assert set(amodal.open(tmp_path / "two.csv").fields) == {"table", "other"}


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = table(tmp_path / "x.csv", "a,note", [f"{i / 7},some text {i}" for i in range(40)])

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(AmodalError, match="Read-only file system.*Every verb reads this data"):
        amodal.init(path)
