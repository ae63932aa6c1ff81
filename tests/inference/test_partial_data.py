"""Data that lacks fields of a run: what it has is read by every verb, and the user is told."""

import warnings

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import amodal
from amodal.cli import main, short_warnings
from amodal.core import AmodalError, AmodalWarning
from amodal.inference.partial_data import read_partial
from amodal.modalities.series import Series

COLOURS = ("red", "green", "blue")


def records(n, fields=("caption", "wave", "motion")):
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        values = {
            "caption": f"a {COLOURS[i % 3]} thing number {i}",
            "wave": rng.normal(i % 3, 1, (32, 2)).astype(np.float32),
            "motion": rng.normal(-(i % 3), 1, (24, 3)).astype(np.float32),
        }
        rows.append({name: values[name] for name in fields})
    return {name: [row[name] for row in rows] for name in fields}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("partial") / "run"
    return amodal.pretrain("clip", records(60), out, size="nano", steps=2, batch_size=16)


def test_one_field_is_embedded_as_it_is_beside_the_others(run):
    whole = run.embed(records(6))
    with pytest.warns(AmodalWarning, match="has no wave and no motion; what it has is read"):
        part = run.embed(records(6, ["caption"]))
    assert [len(part.aligned[field].rows) for field in ("caption", "wave", "motion")] == [6, 0, 0]
    np.testing.assert_allclose(
        part.aligned["caption"].values, whole.aligned["caption"].values, atol=1e-6
    )


def test_one_field_is_indexed_and_found_by_the_others(run, tmp_path):
    with pytest.warns(AmodalWarning, match="what it has is read"):
        engine = run.index(records(12, ["caption"]), tmp_path / "index")
    assert len(engine) == 12
    wave = records(1)["wave"][0]
    hits = run.search(wave=wave, index=tmp_path / "index", k=3)
    assert [hit.source for hit in hits] == ["caption"] * 3


def test_none_of_the_fields_is_an_error_with_the_remedy(run):
    with pytest.raises(AmodalError) as error:
        run.embed({"words": records(6)["caption"]})
    assert "has no field of this run, which reads caption (text)" in str(error.value)
    assert "change [fields.words] to [fields.caption] in" in str(error.value)


def test_the_command_line_reads_one_field(run, tmp_path):
    table, out = tmp_path / "one.csv", tmp_path / "e.parquet"
    table.write_text("\n".join(["caption", *records(5)["caption"]]), encoding="utf-8")
    with pytest.warns(AmodalWarning, match="has no wave and no motion"):
        main(["embed", str(run.path), "--data", str(table), "--out", str(out)])
    assert pq.read_table(out).column("source").to_pylist() == ["caption"] * 5


def test_the_command_line_prints_the_sentence_alone():
    usual = warnings.formatwarning
    with short_warnings():
        said = warnings.formatwarning("it lacks a field", AmodalWarning, "amodal/use.py", 3)
        other = warnings.formatwarning("deprecated", UserWarning, "library.py", 3)
    assert said == "warning: it lacks a field\n"
    assert "library.py:3" in other
    assert warnings.formatwarning is usual


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"rate": 10.0}, "has 10 steps a second, and the run was trained on 50"),
        ({"rate": 50.0, "units": ("m",)}, "has the units m, and the run was trained on g"),
        ({"rate": 50.0, "units": ("g",)}, ""),
        ({}, ""),
    ],
)
def test_series_of_another_rate_or_unit_are_read_with_a_warning(other, message, recwarn):
    trained = Series(channels=("x",), rate=50.0, units=("g",))
    data = amodal.open(
        {"wave": [[[1.0]] * 8] * 4}, fields={"wave": Series(channels=("x",), **other)}
    )
    assert read_partial(data, {"wave": trained}).fields["wave"] == trained
    warned = [str(w.message) for w in recwarn if w.category is AmodalWarning]
    assert len(warned) == bool(message) and all(message in w and "as they are" in w for w in warned)


@pytest.mark.parametrize(
    "texts",
    [["red thing"] * 40, ["red", "blue"] * 20, [f"red{i}" for i in range(40)]],
    ids=["one text", "a label", "a key"],
)
def test_a_column_of_the_run_is_read_whatever_it_would_pass_for_alone(run, tmp_path, texts):
    wave = np.random.default_rng(0).normal(size=(40, 32, 2)).astype(np.float32)
    expected = run.encode({"caption": texts, "wave": wave}, field="caption")
    table = tmp_path / "one.csv"
    table.write_text("\n".join(["caption", *texts]), encoding="utf-8")
    for data in ({"caption": texts}, [{"caption": text} for text in texts], table):
        with pytest.warns(AmodalWarning, match="has no wave and no motion"):
            embedded = run.embed(data)
        vectors = embedded.aligned["caption"].values
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert not run.read(data).labels


def test_a_row_of_the_run_is_read_where_its_cells_hardly_differ(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"a": float(a), "b": float(b), "note": f"a thing of number {i} {a:.2f}"}
        for i, (a, b) in enumerate(rng.normal(size=(60, 2)))
    ]
    model = amodal.pretrain("clip", rows, tmp_path / "run", size="nano", steps=2, batch_size=16)
    expected = model.encode(rows, field="table")
    with pytest.warns(AmodalWarning, match="has no note"):
        vectors = model.encode([{"a": rows[3]["a"], "b": rows[3]["b"]}] * 3)
    np.testing.assert_allclose(model.similarity(vectors, expected[3:4]), 1, atol=1e-5)


def test_an_embedder_reads_a_field_that_would_pass_for_a_label():
    frame = pd.DataFrame(records(60, ["caption"]) | {"n": np.random.default_rng(0).normal(size=60)})
    fitted = amodal.Embedder("clip", size="nano", steps=2, batch_size=16).fit(frame)
    few = pd.DataFrame({"caption": ["red", "blue"] * 20, "n": np.arange(40) / 7})
    both = fitted.transform(few)
    alone = fitted.transform(few[["n"]])
    words = fitted.transform(few[["caption"]])
    assert not np.isnan(words).any()
    assert not np.allclose(both, alone, atol=1e-3)


@pytest.fixture(scope="module")
def of_cells(tmp_path_factory):
    """A run on a table of three columns and a text, and its data."""
    rng = np.random.default_rng(0)
    words = [
        f"word {i} of a text that says {i * 7 % 13} things about apple and pear" for i in range(40)
    ]
    data = {"a": rng.normal(size=40), "b": rng.normal(size=40), "width": rng.normal(size=40)}
    frame = pd.DataFrame({**data, "words": words})
    quick = dict(steps=1, size="nano", progress=False, logger=None)
    return amodal.pretrain("clip", frame, tmp_path_factory.mktemp("cells") / "run", **quick), frame


def test_columns_that_a_table_lacks_are_missing_cells(of_cells):
    model, frame = of_cells
    with pytest.warns(AmodalWarning, match="no a, width; these cells are read as missing"):
        some = model.embed(frame[["b", "words"]]).features
    blank = frame.assign(a=np.nan, width=np.nan)
    whole = model.embed(blank).features
    assert set(some.sources) == {"table", "words"} and len(some["table"]) == 40
    for source in whole.sources:
        assert torch.equal(some[source].values, whole[source].values)
    with pytest.warns(AmodalWarning, match="no table"):  # of a table without any of its columns
        assert len(model.embed(frame[["words"]]).features["table"]) == 0


def test_a_column_of_nearly_the_same_name_is_no_missing_one(of_cells):
    model, frame = of_cells
    with pytest.raises(AmodalError, match="no column 'width'.* but 'widht': if that is it, rename"):
        model.embed(frame.rename(columns={"width": "widht"}))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"table": {"Helligkeit": 1}}, "'table' is a dict of Helligkeit, .*columns of 'table' are"),
        ([{"Helligkeit": 1}], "has none of the columns that 'table' of this run reads, .*Helligk"),
    ],
)
def test_cells_of_unknown_names_are_refused_with_the_columns(of_cells, records, message):
    model, _ = of_cells
    with pytest.raises(AmodalError, match=message) as error:
        model.encode(records)
    assert "a, b, width" in str(error.value) and "dataset.toml" not in str(error.value)


def test_another_table_beside_a_field_of_the_run_is_left_out(of_cells):
    model, frame = of_cells
    other = pd.DataFrame({"words": frame["words"], "Helligkeit": np.arange(40) / 7})
    with pytest.warns(AmodalWarning, match="has no table; what it has is read"):
        vectors = model.encode(other)
    np.testing.assert_array_equal(vectors, model.encode({"words": list(frame["words"])}))


def test_rows_that_cannot_be_read_are_said(of_cells):
    model, _ = of_cells
    with pytest.warns(AmodalWarning, match="1 value could not be read:\n.*it has Helligkeit"):
        vectors = model.encode({"table": [{"Helligkeit": 1}, {"a": 2}]})
    assert np.isnan(vectors).all(1).tolist() == [True, False]


def test_data_in_memory_has_no_file_to_correct(of_cells):
    model, _ = of_cells
    numbers = {"table": [f"words that say {i} things of {i * 7 % 5}" for i in range(20)]}
    with pytest.raises(AmodalError, match="is text in .* if it is not, rename it"):
        model.encode(numbers)
