"""Rows of a CSV beside quotes without an end, and comments before its names."""

import csv
import random

import numpy as np
import pytest

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.data.readers._csv_rows import CsvRow, comments_before_names, rows_of
from amodal.data.readers.table import Table


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def numbered(quotes=(), count=60):
    return "n,x,w\n" + "".join(
        f"{i % 7},{i % 30 / 2},{chr(34) if i in quotes else ''}text {i} of the table\n"
        for i in range(count)
    )


@pytest.mark.parametrize("quotes", [(20,), (20, 50), (20, 21), (59,), (0, 30, 59)])
def test_a_quote_without_an_end_costs_its_own_row(tmp_path, quotes):
    found = data.open(table(tmp_path, numbered(quotes)))
    assert len(found) == 60
    loader = data.Loader(found, range(60), batch=60, shuffle=False)
    _, bad = loader.load(0)
    lines = {one.reason.partition(":")[0] for one in bad}
    assert lines == {f"t.csv, line {i + 2}" for i in quotes}
    assert all("quote" in one.reason for one in bad)
    good = [i for i in range(60) if i not in quotes]
    np.testing.assert_array_equal(
        [found.reader.get(i, "x") for i in good], [i % 30 / 2 for i in good]
    )
    assert found.reader.get(good[-1], "w") == f"text {good[-1]} of the table"


def test_the_others_are_called_as_without_it(tmp_path):
    keys = data.open(table(tmp_path, numbered(), "whole.csv")).keys
    found = data.open(table(tmp_path, numbered((20,)))).keys
    assert [key for key in found if key in keys] == keys[:20] + keys[21:]


def test_init_and_training_say_it(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    table(folder, numbered((20,)))
    report = str(data.init(folder))
    assert "60 records" in report and "damaged lines: 1" in report
    run = amodal.pretrain(
        "simclr", folder, tmp_path / "run", size="nano", steps=1, batch_size=8, progress=False
    )
    assert run is not None


def test_cells_of_more_lines_are_cells(tmp_path):
    rng = random.Random(0)
    for _ in range(100):
        rows = [
            ["".join(rng.choice('ab"\n,; ') for _ in range(rng.randint(0, 12))) for _ in range(3)]
            for _ in range(8)
        ]
        rows = [["p", "q", "r"], *rows]
        file = tmp_path / "t.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, lineterminator="\n").writerows(rows)
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        assert [row.cells for row in rows_of(lines, ",")] == rows
        assert not any(row.reason for row in rows_of(lines, ","))


def test_a_text_with_quotes_in_it_stays_one_cell():
    """Written by a program that does not double quotes: the lines of the cell are no rows."""
    lines = ["id,text\n", '1,"she said\n', 'what "this" is\n', "2,b\n"]
    assert [row.line for row in rows_of(lines, ",")] == [1, 2, 4]
    assert not any(row.reason for row in rows_of(lines, ","))


def test_a_file_that_ends_within_a_quote():
    assert rows_of(["a,b\n", "1,2\n", '3,"the end is'], ",")[-1] == CsvRow(
        3, ['3,"the end is'], "the file ends within a quote"
    )
    one = rows_of(["text\n", "a\n", '"b\n', "c\n", "d\n"], ",")
    assert [(row.cells, bool(row.reason)) for row in one] == [
        (["text"], False), (["a"], False), (['"b'], True), (["c"], False), (["d"], False),
    ]  # fmt: skip


def test_names_within_an_open_quote_are_an_error(tmp_path):
    with pytest.raises(AmodalError, match=r"t\.csv, line 1: the file ends within a quote"):
        data.open(table(tmp_path, '"a,b\n1,2\n3,4\n'))


def test_many_quotes_take_no_time():
    lines = ["a,b\n", *(f'{i},"lone\n' for i in range(20_000))]
    found = rows_of(lines, ",")
    assert len(found) == 20_001 and sum(bool(row.reason) for row in found) == 20_000


def test_comments_stand_before_the_names(tmp_path):
    text = "# Data source: somewhere, 2024\n# two lines\nDate,A,B\n" + "".join(
        f"day {i},{i}.5,{i * i}\n" for i in range(30)
    )
    found = data.open(table(tmp_path, text))
    assert len(found) == 30 and set(found.reader.columns) == {"Date", "A", "B"}
    assert any("begin with #" in note for note in found.reader.notes)
    lines = text.splitlines(keepends=True)
    assert comments_before_names(lines, ",") == 2
    assert comments_before_names(["#chrom\tstart\n", "1\t20\n"], "\t") == 0
    assert comments_before_names(["# x\n", "#chrom\tstart\n", "1\t20\n"], "\t") == 1
    assert comments_before_names(["# x\n", "# y\n"], ",") == 0


def test_lines_are_counted_from_the_beginning_of_the_file(tmp_path):
    path = table(tmp_path, "# one\na,b\n1,2\n3,4,5\n6,7\n8,9\n")
    assert list(Table([path]).damaged.values()) == [
        "t.csv, line 4: 3 cells, but the first line names 2"
    ]
