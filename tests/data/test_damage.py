"""Faults that damaged and hostile tables and archives showed, one by one."""

import io
import json
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amodal import data
from amodal.core import AmodalError
from amodal.data.readers import Table
from benchmarks.faults import containers, corruptions
from tests.data import builders


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[" * 100_000, "recursion"),
        ("a.json", b'[{"x": ' + b"9" * 5000 + b"}]", "digits"),
        ("a.jsonl", b'{"x": 1}\n{"x": ' + b"9" * 5000 + b"}\n", "line 2"),
        ("a.jsonl", b'{"x":' * 100_000 + b"\n{}\n", "line 1"),
    ],
)
def test_tables_that_python_does_not_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AmodalError, match=f"(?s){name}.*({message})"):
        Table([tmp_path / name])


def test_a_cell_of_brackets_is_text(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "[" * 100_000 + ",1\n[1],2\n", encoding="utf-8")
    assert Table([tmp_path / "a.csv"]).get(1, "x") == "[1]"


def test_records_with_names_of_their_own_are_no_table(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({f"n{i}": 1}) + "\n" for i in range(20_000)), encoding="utf-8"
    )
    with pytest.raises(AmodalError, match="hardly one of them twice"):
        Table([tmp_path / "a.jsonl"])


def test_pages_of_parquet_are_checked_where_they_have_checksums(tmp_path):
    file = containers.parquet(tmp_path, np.random.default_rng(0), True)
    content = bytearray(file.read_bytes())
    place = content.index(b"\x89PNG") + 60
    content[place] ^= 1
    file.write_bytes(content)
    dataset = data.open(tmp_path)
    loader = data.Loader(dataset, range(len(dataset)), batch=4, shuffle=False)
    list(loader)
    assert loader.bad and all(
        "CRC" in bad.reason and "records.parquet" in bad.reason for bad in loader.bad
    )
    assert {bad.key for bad in loader.bad} <= {f"r{i:02d}" for i in range(5)}, (
        "one row group of three"
    )


@pytest.mark.parametrize("source", ["huggingface", "parquet"])
def test_offsets_that_point_nowhere_are_reported_and_never_followed(tmp_path, source):
    """Arrow believes them, and reads wherever they point."""
    lengths = np.array([0, 3, 2**30, 9], dtype=np.int32)
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(lengths.tobytes()), pa.py_buffer(b"abcdefghi")]
    )
    table = pa.table({"text": broken})
    if source == "parquet":
        pytest.skip("Parquet has no offsets; Arrow refuses to write these")
    with (
        pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (tmp_path / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data.arrow"}]}), encoding="utf-8"
    )
    (tmp_path / "dataset_info.json").write_text("{}", encoding="utf-8")
    with pytest.raises(AmodalError, match="data.arrow is no complete Arrow file"):
        data.open(tmp_path)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar packs files with holes")
@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_a_tar_with_holes_is_not_read_as_if_it_had_none(tmp_path, format):
    with open(tmp_path / "a.txt", "wb") as file:
        file.write(b"words")
        file.seek(2**20)
        file.write(b"the end")
    (tmp_path / "b.txt").write_bytes(b"other words " * 2**18)
    packed = [
        "tar",
        "--sparse",
        f"--format={format}",
        "-cf",
        str(tmp_path / "x.tar"),
        "-C",
        str(tmp_path),
        "a.txt",
        "b.txt",
    ]
    if subprocess.run(packed, capture_output=True).returncode:
        pytest.skip("this tar knows no --sparse")
    with pytest.raises(AmodalError, match="a.txt is stored with holes"):
        data.open(tmp_path / "x.tar")


@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**60)])
def test_a_tar_with_a_size_below_zero(tmp_path, size):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.txt", "b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"words"))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    second = 1024
    field = size.to_bytes(12, "big", signed=True)
    content[second + 124 : second + 136] = field
    head = content[second : second + 512]
    head[148:156] = b" " * 8
    content[second + 148 : second + 156] = b"%06o\0 " % sum(head)
    (tmp_path / "a.tar").write_bytes(content)
    dataset = data.open(tmp_path / "a.tar")
    assert dataset.keys == ["a", "a.tar:1024"]
    with pytest.raises(AmodalError, match="between the bytes 1,024 and"):
        dataset.value(1, next(iter(dataset.fields)))


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="a file that cannot be read needs care as root"
)
def test_a_label_file_that_vanished_names_itself(tmp_path):
    root = builders.folder(tmp_path / "files")
    for key in ("cat/r01", "dog/r00"):
        (root / f"{key}.cls").write_text("1", encoding="utf-8")
    dataset = data.open(root)
    (root / "cat" / "r01.cls").unlink()
    with pytest.raises(AmodalError, match="r01.cls.*when the folder was listed"):
        dataset.reader.cells("cls")


def test_a_table_that_lost_its_end_names_itself(tmp_path):
    pq.write_table(
        pa.table({"text": [f"number {i}" for i in range(1000)]}),
        tmp_path / "a.parquet",
        row_group_size=100,
    )
    content = (tmp_path / "a.parquet").read_bytes()
    for damaged in (content[:500], corruptions.zeros(content, None), b""):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(AmodalError, match="a.parquet"):
            data.open(tmp_path / "a.parquet")


def test_names_of_columns_become_names_of_files(tmp_path):
    """A field is called so that a file can be named after it."""
    (tmp_path / "a.jsonl").write_text(
        "".join(
            json.dumps({"../up/x": f"some words number {i} of many", "y": i / 7}) + "\n"
            for i in range(30)
        ),
        encoding="utf-8",
    )
    assert all("/" not in name for name in data.open(tmp_path / "a.jsonl").fields)
    (tmp_path / "dataset.toml").write_text(
        'records = "a.jsonl"\n[fields."../up"]\nmodality = "text"\ncolumn = "../up/x"\n',
        encoding="utf-8",
    )
    with pytest.raises(AmodalError, match="cannot be called '../up'"):
        data.open(tmp_path)
