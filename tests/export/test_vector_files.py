"""Vectors in every format are the same vectors."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import amodal
from amodal.core import AmodalError
from amodal.export.vectors import write_vectors


def rows(n=20):
    rng = np.random.default_rng(0)
    return [
        {
            "key": f"rec {i}, the {i}th",
            "wave": None if i == 3 else rng.normal(i % 3, 1, (16, 2)).astype(np.float32),
            "motion": rng.normal(-(i % 3), 1, (12, 3)).astype(np.float32),
        }
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "run"
    return amodal.pretrain("clip", rows(), out, size="nano", steps=2, batch_size=16, progress=False)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("files")
    for name in ("v.parquet", "v.csv", "v.npy", "v.lance"):
        assert write_vectors(model, rows(), out / name, chunk=6, progress=False) == 39
    return out


def test_they_agree(folder):
    table = pq.read_table(folder / "v.parquet").to_pandas()
    expected = np.stack(table["vector"])
    csv = pd.read_csv(folder / "v.csv")
    assert list(csv.columns[:3]) == ["key", "source", "v0"]
    assert csv[["key", "source"]].equals(table[["key", "source"]])
    np.testing.assert_allclose(csv.iloc[:, 2:], expected, rtol=1e-6)
    np.testing.assert_array_equal(np.load(folder / "v.npy"), expected)
    beside = pd.read_csv(folder / "v.rows.csv")
    assert beside.equals(table[["key", "source"]])
    lance = amodal.data.readers.lance_table.open_lance(folder / "v.lance").to_pandas()
    assert lance[["key", "source"]].equals(table[["key", "source"]])
    np.testing.assert_array_equal(np.stack(lance["vector"]), expected)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_vectors_in_lance_are_a_new_version_and_a_foreign_table_stays(model, folder, tmp_path):
    import lance
    import pyarrow as pa

    before = lance.dataset(str(folder / "v.lance")).version
    write_vectors(model, rows(), folder / "v.lance", progress=False)
    later = lance.dataset(str(folder / "v.lance"))
    assert (later.version, later.count_rows()) == (before + 1, 39)
    lance.write_dataset(pa.table({"mine": [1, 2]}), str(tmp_path / "mine.lance"))
    with pytest.raises(AmodalError, match="holds no vectors"):
        write_vectors(model, rows(), tmp_path / "mine.lance", progress=False)
    (tmp_path / "folder.lance").mkdir()
    with pytest.raises(AmodalError, match="is a folder"):
        write_vectors(model, rows(), tmp_path / "folder.lance", progress=False)


def test_lance_without_its_package_is_said_at_once(model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[lance\]'"):
        write_vectors(model, rows(), tmp_path / "v.lance", progress=False)


def test_only_vectors_are_overwritten(model, folder, tmp_path):
    for name in ("v.csv", "v.npy"):
        write_vectors(model, rows(), folder / name, progress=False)
        mine = tmp_path / name
        mine.write_text("key,words\n1,mine\n", encoding="utf-8")
        with pytest.raises(AmodalError, match="holds no vectors"):
            write_vectors(model, rows(), mine, progress=False)
        assert mine.read_text(encoding="utf-8") == "key,words\n1,mine\n"


@pytest.mark.parametrize(
    "name, better", [("v.cvs", "v.csv"), ("v.CSV", "v.csv"), ("v.txt", "v.parquet"), ("v", "v.p")]
)
def test_another_ending_says_which_there_are(model, tmp_path, name, better):
    with pytest.raises(
        AmodalError, match=rf"\.parquet, \.csv, \.npy, \.lance, and .*call it .*{better}"
    ):
        write_vectors(model, rows(), tmp_path / name, progress=False)


def test_a_foreign_file_beside_is_not_overwritten(model, tmp_path):
    (tmp_path / "v.rows.csv").write_text("precious\n", encoding="utf-8")
    with pytest.raises(AmodalError, match="says no rows"):
        write_vectors(model, rows(), tmp_path / "v.npy", progress=False)
    assert (tmp_path / "v.rows.csv").read_text(encoding="utf-8") == "precious\n"


def test_a_chunk_without_vectors_is_none(model, tmp_path):
    empty = [{"key": f"none {i}", "wave": None, "motion": None} for i in range(8)]
    for name in ("v.csv", "v.npy"):
        count = write_vectors(model, rows() + empty, tmp_path / name, chunk=4, progress=False)
        assert count == 39
