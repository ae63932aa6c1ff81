"""Tables of Lance are read like other tables."""

import numpy as np
import pyarrow as pa
import pytest

import amodal
from amodal.cli import main
from amodal.core import AmodalError

lance = pytest.importorskip("lance")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "name": [f"rec {i}" for i in range(40)],
        "wave": [row.tolist() for row in rng.normal(size=(40, 6)).astype(np.float32)],
        "weight": rng.normal(size=40),
        "height": [None, *rng.normal(size=39)],
        "kind": ["ab"[i % 2] for i in range(40)],
    }
    lance.write_dataset(pa.table(columns), str(tmp_path / "t.lance"))
    return tmp_path / "t.lance", columns


def test_a_table_of_lance_is_what_the_same_table_in_memory_is(folder):
    path, columns = folder
    read, held = amodal.open(path), amodal.open(pa.table(columns))
    assert set(read.fields) == set(held.fields) and len(read) == 40
    assert set(read.labels) == set(held.labels)
    for name in read.fields:
        np.testing.assert_array_equal(read.present(name), held.present(name))
        for i in (1, 39):
            np.testing.assert_array_equal(read.value(i, name), held.value(i, name))


def test_another_version_is_other_data(folder):
    path, columns = folder
    before = amodal.open(path).fingerprint
    assert amodal.open(path).fingerprint == before
    lance.write_dataset(pa.table(columns), str(path), mode="append")
    after = amodal.open(path)
    assert len(after) == 80 and after.fingerprint != before


def test_init_writes_a_schema_beside_and_lance_goes_on(folder, capsys):
    path, columns = folder
    main(["init", str(path)])
    assert "kind" in capsys.readouterr().out and (path / "dataset.toml").exists()
    lance.write_dataset(pa.table(columns), str(path), mode="append")
    assert len(amodal.open(path)) == 80


def test_a_damaged_table_is_an_error_in_a_sentence(folder):
    path, _ = folder
    for file in (path / "data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(AmodalError, match="no complete table of Lance"):
        amodal.open(path)
    for file in (path / "_versions").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(AmodalError, match="no complete table of Lance"):
        amodal.open(path)
