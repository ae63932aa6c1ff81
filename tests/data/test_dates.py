"""A date is the same number, whatever the data hold it in."""

import csv
import datetime
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import amodal.data as data
from amodal.data.attributes import Attributes
from amodal.data.infer_schema import is_number
from amodal.data.readers import Table
from amodal.data.readers.arrays import Arrays
from amodal.data.readers.native import Native
from amodal.modalities import kind, make
from amodal.modalities.shared.cells import is_date, is_missing, number

DAY = datetime.date(2024, 1, 31)
MIDNIGHT = datetime.datetime(2024, 1, 31)
SECONDS = 1706659200.0
"""Of 31 January 2024, 0:00 UTC, by `date -u -d 2024-01-31 +%s`."""

ARROW = {
    "date32": pa.date32(),
    "date64": pa.date64(),
    "seconds": pa.timestamp("s"),
    "microseconds": pa.timestamp("us"),
    "nanoseconds": pa.timestamp("ns"),
    "utc": pa.timestamp("us", "UTC"),
    "zone": pa.timestamp("us", "America/New_York"),
}


def numpy_dates(unit: str) -> np.ndarray:
    return np.array(["2024-01-31", "NaT"], f"datetime64[{unit}]")


def test_every_form_of_a_date_is_one_number():
    forms = [DAY, MIDNIGHT, MIDNIGHT.replace(tzinfo=datetime.UTC), "2024-01-31"]
    forms += ["2024-01-31T00:00", "2024-01-31 02:00:00+02:00", "2024-01-30T19:00-0500"]
    forms += [numpy_dates(unit)[0] for unit in ("D", "s", "ms", "us", "ns")]
    for form in forms:
        assert number(form) == SECONDS and is_date(form) and not is_missing(form), repr(form)
    assert number(datetime.date(1969, 12, 31)) == -86400
    assert number(np.datetime64("2024-01-31T00:00:00.25", "ns")) == SECONDS + 0.25
    # `datetime` ends in 9999; 400 years have 146,097 days
    assert number(np.datetime64("12024-01-31", "D")) == SECONDS + 25 * 146097 * 86400
    for missing in numpy_dates("D")[1], numpy_dates("ns")[1]:
        assert np.isnan(number(missing)) and is_missing(missing) and not is_date(missing)


def test_other_forms_of_a_date_that_have_one_reading():
    forms = ("31.01.2024", "2024/01/31", "2024/1/31", "31.01.2024 00:00", " 31.01.2024 ")
    for form in forms:
        assert number(form) == SECONDS and is_date(form), form
    assert number("31.01.2024 7:05") == SECONDS + 7 * 3600 + 300
    assert number("2024/01/31T00:00:30.5") == SECONDS + 30.5
    others = ("31.02.2024", "01/02/2024", "1.2.3.2024", "31.01.24", "32.01.2024", "01.02.2024x")
    for text in (*others, "1.2.2024"):  # which may be a version
        assert not is_date(text), text
        with pytest.raises(ValueError):
            number(text)


def test_a_column_of_dates_as_people_write_them(tmp_path):
    days = [f"{1 + i % 28:02}.{1 + i % 12:02}.2024" for i in range(60)]
    slashes = [f"{1 + i % 12}/{1 + i % 28}/2024" for i in range(60)]
    rows = [("height", "seen", "born")]
    rows += [(i * 0.5, *both) for i, both in enumerate(zip(days, slashes))]
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)
    opened = data.open(path)
    columns = [c for f in opened.fields.values() for c in getattr(f, "columns", ())]
    assert "seen" in columns and "born" not in columns
    notes = [f"{cell} the patient {i} came back with a cough" for i, cell in enumerate(slashes)]
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("height", "note"), *((i / 3, n) for i, n in enumerate(notes))])
    assert "note" in data.open(path).fields, "a text that begins with a date is no date"
    cells = opened.reader.cells("seen")
    assert number(cells[0]) == number("2024-01-01")


def test_dates_of_pandas():
    pandas = pytest.importorskip("pandas")
    for form in pandas.Timestamp(DAY), pandas.Timestamp(DAY, tz="UTC"):
        assert number(form) == SECONDS and is_date(form)
    assert np.isnan(number(pandas.NaT)) and is_missing(pandas.NaT) and not is_date(pandas.NaT)
    reader = Arrays({"seen": pandas.Series([MIDNIGHT, None])})
    assert number(reader.get(0, "seen")) == SECONDS and reader.present("seen").tolist() == [1, 0]


@pytest.mark.parametrize("column", ARROW)
def test_parquet(tmp_path, column):
    aware = MIDNIGHT.replace(tzinfo=datetime.UTC) if column in ("utc", "zone") else MIDNIGHT
    cells = pa.array([DAY if column.startswith("date") else aware, None], ARROW[column])
    pq.write_table(pa.table({column: cells}), tmp_path / "a.parquet")
    reader = Table([tmp_path / "a.parquet"])
    assert number(reader.get(0, column)) == number(reader.cells(column)[0]) == SECONDS
    assert is_number(reader.get(0, column)) and reader.present(column).tolist() == [True, False]


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_arrays_in_memory(unit):
    reader = Arrays({"seen": numpy_dates(unit)})
    assert number(reader.get(0, "seen")) == SECONDS and reader.get(1, "seen") is None
    assert is_number(reader.get(0, "seen")) and reader.present("seen").tolist() == [True, False]


def test_csv_parquet_memory_and_pack_train_on_the_same(tmp_path):
    days = [DAY, DAY + datetime.timedelta(1), DAY + datetime.timedelta(5)]
    ages = [1.5, 2.5, 3.5]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("seen", "age"), *zip(days, ages)])
    pq.write_table(pa.table({"seen": days, "age": ages}), tmp_path / "a.parquet")
    memory = {"seen": np.array(days, "datetime64[ns]"), "age": ages}
    opened = [data.open(source) for source in (tmp_path / "a.csv", tmp_path / "a.parquet", memory)]
    opened.append(data.open(data.pack(opened[1], tmp_path / "packed")))
    assert isinstance(opened[-1].reader, Native)
    tables = [next(iter(dataset.fields.values())) for dataset in opened]
    assert all(t.mean == tables[0].mean and t.std == tables[0].std for t in tables)
    expected = [[np.float32(SECONDS + 86400 * d), a] for d, a in zip((0, 1, 5), ages)]
    for dataset in opened:
        (name,) = dataset.fields
        assert [dataset.value(i, name).tolist() for i in range(3)] == expected


def test_modalities_read_them_alike():
    table = make("table", columns=["seen"])
    steps = make("series", channels=["seen"])
    events = make("events", columns=["seen"], time="")
    forms = [[DAY], [MIDNIGHT], ["2024-01-31"], *(numpy_dates(u)[:1] for u in ("D", "us", "ns"))]
    for form in forms:
        assert table.decode(form).tolist() == table.decode({"seen": form[0]}).tolist()
        assert table.decode(form).tolist() == [np.float32(SECONDS)]
        assert steps.decode({"seen": form}).tolist() == [[np.float32(SECONDS)]]
        assert events.decode({"seen": form})[0, 1] == np.float32(SECONDS)
        assert events.decode([{"seen": form[0]}])[0, 1] == np.float32(SECONDS)


@pytest.mark.parametrize("ending", ["", "T00:00:00", "T00:00:00.5"])
def test_a_column_of_dates_is_no_channel_of_a_series(tmp_path, ending):
    days = [f"2024-01-{day}{ending}" for day in (29, 30, 31)]
    lines = [f"{day},{x}" for day, x in zip(days, (1.0, 2.5, 0.5))]
    (tmp_path / "a.csv").write_text("\n".join(["when,x", *lines]), encoding="utf-8")
    assert kind("series").infer([tmp_path / "a.csv"]).channels == ("x",)
    values = [datetime.datetime.fromisoformat(day) for day in days]
    for column in (days, values, [v.date() for v in values]):
        assert kind("series").infer([{"when": column, "x": [1.0, 2.5, 0.5]}]).channels == ("x",)


def test_dates_of_a_column_colour_a_map_whatever_holds_them():
    for seen in [DAY, MIDNIGHT], ["2024-01-31", "2024-02-01"]:
        opened = data.open({"text": ["a b", "b c"], "seen": seen}, fields={"text": "text"})
        schema = replace(opened.schema, fields={"text": opened.schema.fields["text"]})
        records = data.Dataset(opened.reader, schema)
        attributes = Attributes(records)
        assert attributes.names["seen"] == "number"
        assert attributes.values("seen", records.keys)[0] == SECONDS
