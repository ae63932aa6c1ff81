"""Every reader gives back what was written, missing fields included."""

import csv
import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import amodal
import amodal.data as data
from amodal.core import AmodalError
from amodal.data.readers import Table
from tests.data import builders as b

OPENERS = {
    "folder": lambda root: b.folder(root),
    "tar": lambda root: b.tars(root),
    "csv": lambda root: b.table(root, "csv"),
    "jsonl": lambda root: b.table(root, "jsonl"),
    "parquet": lambda root: b.table(root, "parquet"),
    "huggingface": lambda root: b.huggingface(root),
    "arrays": lambda root: b.arrays(),
}
FIELDS = {
    "image": "image",
    "file": "image",
    "picture": "image",
    "text": "text",
    "caption": "text",
    "audio": "audio",
}


@pytest.fixture(params=OPENERS)
def dataset(request, tmp_path):
    return data.open(OPENERS[request.param](tmp_path))


def same(a, b):
    return a is b is None or (
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    )


def by_number(dataset):
    """Record numbers in the order of the builders."""
    if "/" in dataset.keys[0]:
        return sorted(range(len(dataset)), key=lambda i: dataset.keys[i].split("/r")[1])
    return range(len(dataset))


def test_values_and_absence(dataset):
    assert len(dataset) == b.N
    for name, modality in dataset.fields.items():
        present = dataset.present(name)
        values = [dataset.value(i, name) for i in range(b.N)]
        assert [v is not None for v in values] == present.tolist()
        assert all(
            np.isfinite(v).any() and len(modality.collate([v])) == 1
            for v in values
            if v is not None
        )
        field = FIELDS.get(name)
        expected = {"image": b.png, "audio": b.wav, "text": lambda i: b.CAPTIONS[i]}.get(field)
        if expected:
            assert [present[i] for i in by_number(dataset)] == [
                expected(i) is not None for i in range(b.N)
            ]
        if field == "text":
            texts = [
                bytes(values[i].astype(np.uint8)).decode() if values[i] is not None else None
                for i in by_number(dataset)
            ]
            assert texts == b.CAPTIONS


def test_labels(dataset):
    name = next(n for n in ("folder", "species", "label") if n in dataset.labels)
    assert dataset.label(name)[list(by_number(dataset))].tolist() == b.SPECIES
    with pytest.raises(AmodalError, match="no label .* is called 'specie'"):
        dataset.label("specie")


def test_pickled_reader_gives_the_same(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    for name in dataset.fields:
        for i in range(b.N):
            assert same(dataset.value(i, name), copy.value(i, name))
    assert copy.fingerprint == dataset.fingerprint


def test_pack_round_trip(dataset, tmp_path):
    packed = data.open(data.pack(dataset, tmp_path / "packed", shard_bytes=900))
    assert (
        packed.keys == dataset.keys
        and set(packed.fields) == set(dataset.fields)
        and packed.fields == dataset.fields
    )
    assert len(list((tmp_path / "packed").glob("shard-*.arrow"))) > 1
    for name in dataset.fields:
        for i in range(b.N):
            assert same(dataset.value(i, name), packed.value(i, name))
    for name, label in dataset.labels.items():
        if label.kind == "number":
            assert np.array_equal(packed.label(name), dataset.label(name), equal_nan=True)
        else:
            assert packed.label(name).tolist() == dataset.label(name).tolist()
    assert all(
        np.array_equal(packed.split(p), dataset.split(p)) for p in ("train", "valid", "test")
    )


def test_table_cells_become_one_field(tmp_path):
    dataset = data.open(b.table(tmp_path, "csv"))
    assert dataset.fields["table"].columns == ("weight", "height")
    assert dataset.keys[3] == "k03"
    assert np.array_equal(dataset.value(3, "table"), [np.nan, 13], equal_nan=True)
    assert dataset.labels["latitude"].kind == "number" and dataset.label("latitude")[2] == 42


def test_objects_in_tars_are_columns(tmp_path):
    dataset = data.open(b.tars(tmp_path))
    assert set(dataset.labels) == {"folder", "json.species"}
    assert dataset.fields["table"].columns == ("json.age",) and len(dataset.fields) == 4
    assert dataset.value(0, "table") == 1


def test_huggingface_splits(tmp_path):
    dataset = data.open(b.huggingface(tmp_path, splits=True))
    assert len(dataset) == b.N and dataset.split("test").tolist() == [8, 9]
    assert set(dataset.split("train")) | set(dataset.split("valid")) == set(range(8))


def test_many_files_are_one_table(tmp_path):
    for part in range(2):
        lines = [
            json.dumps({"text": f"some words {part} {i}"} | ({"extra": i / 7} if part else {}))
            for i in range(4)
        ]
        (tmp_path / f"p{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = data.open(tmp_path)
    assert (
        len(set(dataset.keys)) == 8
        and dataset.present("table").tolist() == [False] * 4 + [True] * 4
    )


def test_folders_by_kind_and_words_in_names(tmp_path):
    for i in range(4):
        for folder, ending, content in (
            ("pictures", "png", b.png(i)),
            ("words", "txt", b"some words"),
        ):
            (tmp_path / "a" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / folder / f"{i}.{ending}").write_bytes(content)
        for side in ("left", "right"):
            (tmp_path / "b").mkdir(exist_ok=True)
            (tmp_path / "b" / f"v1.{i}.{side}.png").write_bytes(b.png(i))
    a, two = data.open(tmp_path / "a"), data.open(tmp_path / "b")
    assert (
        a.keys == ["0", "1", "2", "3"] and set(a.fields) == {"pictures", "words"} and not a.labels
    )
    assert two.keys == [f"v1.{i}" for i in range(4)] and set(two.fields) == {"left", "right"}


def test_train_and_test_folders_are_a_split(tmp_path):
    for part, n in (("train", 30), ("test", 5)):
        for i in range(n):
            (tmp_path / part / b.SPECIES[i % 2]).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / b.SPECIES[i % 2] / f"{i}.png").write_bytes(b.png(0))
    dataset = data.open(tmp_path)
    assert len(dataset.split("test")) == 5 and set(dataset.label("folder")) == {"cat", "dog"}


def test_arrays_of_many_forms():
    torch = pytest.importorskip("torch")
    dataset = data.open({"x": torch.rand(6, 3, 8, 8), "y": [0, 1, 0, 1, 0, None]}, name="six")
    assert (
        dataset.name == "six"
        and dataset.value(0, "x").shape == (3, 8, 8)
        and dataset.label("y").tolist() == ["0", "1", "0", "1", "0", None]
    )
    chosen = data.open({"wave": np.random.rand(4, 500)}, fields={"wave": "series"})
    assert chosen.value(0, "wave").shape == (500, 1)
    with pytest.raises(AmodalError, match="a: 2, b: 3"):
        data.open({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(AmodalError, match="no column .* 'wav'.* Did you mean wave"):
        data.open({"wave": np.random.rand(4, 5)}, fields={"wav": "series"})


KILLED = """
import os, sys
import amodal.data as data
from amodal.data import pack as module
from amodal.data.dataset import Dataset
seen = 0
raw = Dataset.raw
def slow(self, i, field):
    global seen
    seen += 1
    if seen == 25:
        os.kill(os.getpid(), 9)
    return raw(self, i, field)
Dataset.raw = slow
data.pack(data.open(sys.argv[1]), sys.argv[2], shard_bytes=600)
"""


def test_killed_pack_leaves_the_old_data(tmp_path):
    old = data.pack(data.open(b.arrays()), tmp_path / "packed")
    before = data.open(old)
    b.folder(tmp_path / "new")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "new"), str(old)], capture_output=True
    )
    assert killed.returncode == -9, killed.stderr.decode()
    after = data.open(old)
    assert after.fingerprint == before.fingerprint and np.array_equal(
        after.value(1, "signal"), before.value(1, "signal")
    )
    assert list(old.glob("*.part")) or len(list(old.glob("shard-*"))) > 1  # it was killed half way
    data.pack(data.open(tmp_path / "new"), old)
    assert (
        set(data.open(old).fields) == {"audio", "image", "text"}
        and len(list(old.glob("shard-*"))) == 1
    )
    assert not list(old.glob("*.part"))


def test_first_pack_interrupted(tmp_path):
    data.pack(data.open(b.arrays()), tmp_path / "packed")
    (tmp_path / "packed" / "dataset.toml").unlink()
    with pytest.raises(AmodalError, match="interrupted pack"):
        data.open(tmp_path / "packed")


def test_pack_overwrites_nothing_else(tmp_path):
    b.folder(tmp_path / "mine")
    with pytest.raises(AmodalError, match="new or an empty folder"):
        data.pack(data.open(b.arrays()), tmp_path / "mine")


def test_damaged_pack(tmp_path):
    shard = next(data.pack(data.open(b.arrays()), tmp_path / "packed").glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(AmodalError, match=f"{shard.name} is damaged"):
        data.open(tmp_path / "packed")
    shard.write_bytes(content[:-10])
    with pytest.raises(AmodalError, match="promises"):
        data.open(tmp_path / "packed")


def test_damaged_tar(tmp_path):
    shard = b.tars(tmp_path, shards=1) / "part-0.tar"
    whole = shard.read_bytes()
    headers = [o for o in range(0, len(whole), 512) if whole[o + 257 : o + 262] == b"ustar"]
    second, third = headers[1:3]
    intact = data.open(tmp_path)
    for damaged, stretch, lost in (
        # the name of a member is unreadable: what it holds is lost, and no more
        (whole[:second] + b"#" * 512 + whole[second + 512 :], (second, third), 1),
        # zeros, as of a sector that was never written
        (whole[:second] + bytes(512) + whole[second + 512 :], (second, third), 1),
        (whole[: headers[-3] + 100], (headers[-3], headers[-3] + 100), 3),
    ):
        shard.write_bytes(damaged)
        dataset = data.open(tmp_path)
        place = f"part-0.tar:{stretch[0]}"
        assert dataset.keys[-1] == place and len(dataset.keys) in (len(intact) + 1, len(intact))
        files = [
            sum((r >= 0).sum() for r in d.reader.file_index.values()) for d in (intact, dataset)
        ]
        assert files[0] - files[1] == lost
        number = len(dataset.keys) - 1
        field = next(iter(dataset.fields))
        assert dataset.present(field)[number]
        with pytest.raises(AmodalError, match=f"between the bytes {stretch[0]:,} and"):
            dataset.value(number, field)
        assert dataset.classes("folder") == intact.classes("folder")
    report = str(amodal.init(tmp_path))
    assert "damaged stretches of shards" in report
    shard.write_bytes(b"#" * 512 + bytes(10240))
    with pytest.raises(AmodalError, match=r"part-0.tar is damaged at byte 0 of"):
        data.open(tmp_path)


def test_a_damaged_tar_trains_and_its_damage_is_in_quarantine(tmp_path):
    shard = b.tars(tmp_path / "data", shards=1) / "part-0.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:512] + whole[512:].replace(b"r03.png", b"r0?.png", 1))
    run = tmp_path / "run"
    amodal.pretrain("clip", tmp_path / "data", run, size="nano", steps=2, batch_size=4)
    assert "part-0.tar:" in (run / "quarantine.jsonl").read_text(encoding="utf-8")


def test_unreadable_tables(tmp_path):
    bad = {
        "a.csv": ("", "is empty"),
        "b.csv": ("x,x\n1,2\n", "more than one column is called 'x'"),
        "c.csv": ("x,y\n1,2,3\n", "line 2: 3 cells, but the first line names 2"),
        "d.jsonl": ('nonsense\n{"a": 1}\nmore\n{"a": 2}\n', "line 1"),
        "e.jsonl": ("[1, 2]\n", "no object"),
        "f.parquet": ("PAR1", "no complete Parquet file"),
        "g.csv": ("x,y\n", "no rows"),
    }
    for name, (text, message) in bad.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(AmodalError, match=message):
            data.open(tmp_path / name)


def test_torn_last_line_is_passed_over(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"text": "some words here"}\n{"text": "other words"}\n{"te', encoding="utf-8"
    )
    assert len(data.open(tmp_path / "t.jsonl")) == 2


def test_keys_must_be_different(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\na,some words\na,other words\n", encoding="utf-8")
    (tmp_path / "dataset.toml").write_text(
        'records = "t.csv"\nkey = "id"\n[fields.text]\nmodality = "text"\n', encoding="utf-8"
    )
    with pytest.raises(AmodalError, match="occur more than once, such as 'a'"):
        data.open(tmp_path)


def test_what_pandas_and_r_write_for_nothing_is_missing_in_every_column_of_a_csv(tmp_path):
    (tmp_path / "t.csv").write_text(
        "sex,alive,eggs,damage\nNA,true,1,none\nfemale,NaN,NA,none\nN/A,false,3,\n",
        encoding="utf-8",
    )
    table = Table([tmp_path / "t.csv"])
    assert table.cells("sex") == [None, "female", None]
    assert table.cells("alive") == [True, None, False]
    assert table.cells("eggs") == [1, None, 3]
    assert table.cells("damage") == ["none", "none", None]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_row_without_a_key_keeps_its_name_and_part(tmp_path, ending):
    rows = [
        {"words": f"some words {i}", "n": i * i, "r": i / 7 if i % 5 else None} for i in range(200)
    ]
    first = _keyless(tmp_path / f"a.{ending}", rows)
    more = _keyless(
        tmp_path / f"b.{ending}", [{"words": "in front", "n": -1, "r": 0.5}, *reversed(rows)]
    )
    assert more.keys[1:] == first.keys[::-1] and all(len(key) == 16 for key in first.keys)
    assert np.array_equal(more.parts[1:], first.parts[::-1])


def test_the_name_of_a_row_does_not_depend_on_other_rows_or_columns(tmp_path):
    rows = [{"words": f"some words {i}", "n": i % 7} for i in range(30)]
    keys = _keyless(tmp_path / "a.csv", rows).keys
    assert _keyless(tmp_path / "b.csv", [*rows, {"words": "more", "n": "x"}]).keys[:30] == keys
    assert (
        _keyless(
            tmp_path / "c.csv", [{"n": r["n"], "empty": None, "words": r["words"]} for r in rows]
        ).keys
        == keys
    )
    assert _keyless(tmp_path / "d.parquet", [*rows, {"words": "more", "n": 0.5}]).keys[:30] == keys


def test_exact_copies_have_names_and_stay_in_one_part(tmp_path):
    rows = [{"words": f"some words {i}", "n": i} for i in range(100)]
    dataset = _keyless(tmp_path / "a.jsonl", [*rows, *rows, rows[0]])
    assert (
        dataset.keys[100] == dataset.keys[0] + "#2" and dataset.keys[200] == dataset.keys[0] + "#3"
    )
    assert np.array_equal(dataset.parts[:100], dataset.parts[100:200])


def test_rows_are_named_by_their_bytes_and_lists(tmp_path):
    rows = [
        {"picture": b.png(i), "list": [i, 0.5], "some": {"a": [["x"], []]}} for i in (0, 1, 2, 3, 3)
    ]
    keys = _keyless(tmp_path / "a.parquet", rows).keys
    assert len({key[:16] for key in keys}) == 4 and keys[4] == keys[3] + "#2"
    rows[0]["picture"] += b"x"
    assert _keyless(tmp_path / "b.parquet", rows).keys[1:] == keys[1:] != keys[:1]


def _keyless(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(
            pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]}), path
        )
    return data.open(path)


def test_a_column_of_arrays_in_memory_may_name_the_records():
    dataset = data.open({"id": [f"a{i}" for i in range(30)], "x": [[1.0, 2.0]] * 30})
    assert dataset.keys[:2] == ["a0", "a1"] and set(dataset.fields) == {"x"}


def test_reading_a_pack_loads_no_pandas(tmp_path):
    """Arrow does where it turns columns to numpy itself, which takes a second."""
    packed = data.pack(data.open(b.tars(tmp_path)), tmp_path / "packed")
    code = "import sys; from amodal import data; d = data.open(sys.argv[1]); list(data.Loader(d, [0, 1], batch=2, steps=1)); "
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            code + "print('pandas' in sys.modules)",
            str(packed),
        ],
        capture_output=True,
    )
    assert done.stdout.strip() == b"False", done.stderr
