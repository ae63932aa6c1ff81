import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import amodal.data as data
from amodal import modalities
from amodal.core import AmodalError
from amodal.data import bundled, infer_schema
from amodal.data.field_names import RESERVED
from amodal.nn.encoder import Encoder
from tests.data import builders as b


@pytest.mark.parametrize(
    "make",
    [
        b.messy,
        b.tars,
        b.huggingface,
        *(lambda r, e=e: b.table(r, e).parent for e in ("csv", "jsonl", "parquet")),
    ],
)
def test_what_init_writes_opens_to_the_same(tmp_path, make):
    root = make(tmp_path / "set")
    guessed = data.infer(root)
    report = data.init(root)
    opened = data.open(root)
    assert report.path == root / "dataset.toml" and opened.schema.name == "set"
    assert (
        opened.fields == guessed.fields
        and opened.labels == guessed.labels
        and opened.keys == guessed.keys
    )
    assert opened.fingerprint == guessed.fingerprint
    for name in opened.fields:
        assert np.array_equal(opened.present(name), guessed.present(name))
    with pytest.raises(AmodalError, match="exists already. Edit it"):
        data.init(root)
    data.init(root, force=True)
    assert data.open(root).fields == guessed.fields


def test_report_of_a_messy_folder(tmp_path):
    report = data.init(b.messy(tmp_path / "mess"))
    text = str(report)
    by_field = {f.name: f for f in report.fields}
    assert set(by_field) == {"image", "text", "audio"} and [
        label.name for label in report.labels
    ] == ["folder"]
    assert (
        by_field["image"].unreadable > 0
        and "damaged" in by_field["image"].reason
        and "12 x 12" in by_field["image"].summary
    )
    assert "8,000 Hz" in by_field["audio"].summary and "Latin" in by_field["text"].summary
    assert 0.6 < by_field["audio"].missing < 0.9
    assert report.left_out == {"*.abc": "1 files"}
    assert "unreadable" in text and "2 classes: cat (7), dog (6)" in text
    assert "*.db" not in text and "dataset.toml" in text


def test_an_edited_toml_is_respected(tmp_path):
    root = b.table(tmp_path / "set", "csv").parent
    data.init(root)
    path = root / "dataset.toml"
    text, table = (
        path.read_text(encoding="utf-8"),
        '[fields.table]\nmodality = "table"\ncolumns = ["height"]\n\n',
    )
    text = text[: text.index("[fields.table]")] + table + text[text.index("[labels.species]") :]
    for old, new in (
        ("size = 12\n", "size = 16\n"),
        ("[fields.file]", "[fields.photo]\ncolumn = 'file'"),
        ("[labels.latitude]", "[labels.north]\ncolumn = 'latitude'"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    dataset = data.open(root / "records.csv")
    assert (
        list(dataset.fields) == ["photo", "caption", "table"] and dataset.fields["photo"].size == 16
    )
    assert dataset.value(0, "table").tolist() == [10] and dataset.label("north")[0] == 40
    assert len(dataset.fields["table"].mean) == 1  # measured, since it is not given


def test_parameters_that_are_left_out_are_measured(tmp_path):
    b.folder(tmp_path)
    (tmp_path / "dataset.toml").write_text(
        '[fields.image]\nmodality = "image"\nsize = 8\n', encoding="utf-8"
    )
    image = data.open(tmp_path).fields["image"]
    assert image.size == 8 and len(image.mean) == 3
    (tmp_path / "dataset.toml").write_text(
        '[fields.image]\nmodality = "image"\nmean = [0.1, 0.1, 0.1]\nstd = [1, 1, 1]\n',
        encoding="utf-8",
    )
    image = data.open(tmp_path).fields["image"]
    assert image.mean == (0.1, 0.1, 0.1)


def test_zero_rows_of_a_source_are_reported(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": f"some words {i}", "sound": None}) + "\n" for i in range(5)),
        encoding="utf-8",
    )
    assert data.init(tmp_path).left_out == {"sound": "every cell is empty"}
    (tmp_path / "dataset.toml").write_text(
        'records = "t.jsonl"\n[fields.text]\nmodality = "text"\n[fields.sound]\nmodality = "audio"\n',
        encoding="utf-8",
    )
    dataset = data.open(tmp_path)
    assert not dataset.present("sound").any()
    with pytest.warns(UserWarning, match="'sound'"):
        data.Loader(dataset, range(5), batch=5)


def test_no_usable_field(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,species,always\n" + "".join(f"k{i},{'ab'[i % 2]},same\n" for i in range(20)),
        encoding="utf-8",
    )
    with pytest.raises(
        AmodalError, match="(?s)no usable field.*id: a key.*species: a label.*always: always 'same'"
    ):
        data.open(tmp_path / "t.csv")


def test_label_missing_everywhere(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": f"some words {i}", "kind": None}) + "\n" for i in range(5)),
        encoding="utf-8",
    )
    (tmp_path / "dataset.toml").write_text(
        'records = "t.jsonl"\n[fields.text]\nmodality = "text"\n[labels.kind]\n', encoding="utf-8"
    )
    dataset = data.open(tmp_path)
    assert dataset.label("kind").tolist() == [None] * 5
    with pytest.raises(AmodalError, match="none of the 5 records of .* has the label 'kind'"):
        dataset.label("kind", required=True)


def test_another_toml_does_not_describe_this_file(tmp_path):
    (tmp_path / "a.csv").write_text(
        "words\n" + "".join(f"some words {i}\n" for i in range(5)), encoding="utf-8"
    )
    (tmp_path / "b.csv").write_text(
        "height\n" + "".join(f"{i}.5\n" for i in range(5)), encoding="utf-8"
    )
    data.init(tmp_path / "a.csv")
    assert set(data.open(tmp_path / "b.csv").fields) == {"table"} and set(
        data.open(tmp_path).fields
    ) == {"words"}
    with pytest.raises(AmodalError, match="exists already"):
        data.init(tmp_path / "b.csv")


COLUMNS = [
    ("note", [f"a note of {i} words" for i in range(40)], "field", "text"),
    ("mood", ["happy", "sad"] * 20, "label", "category"),
    ("species_name", [f"sp {i}" for i in range(40)], "label", "category"),
    ("class", [i % 3 for i in range(40)], "label", "category"),
    ("target", [i / 7 for i in range(40)], "label", "number"),
    ("lat", [i / 7 for i in range(40)], "label", "number"),
    ("patient", [f"p{i % 9}" for i in range(40)], "label", "category"),
    ("code", [f"x{i:03d}" for i in range(40)], "key", ""),
    ("n", list(range(1, 41)), "key", ""),
    ("subset", ["train", "test"] * 20, "split", ""),
    ("weight", [i * 0.5 for i in range(40)], "cell", ""),
    ("smoker", [True, False] * 20, "cell", ""),
    ("always", ["x"] * 40, "out", ""),
    ("link", [f"https://a.org/{i}.png" for i in range(40)], "out", ""),
    ("file", [f"sounds/{i}.wav" for i in range(40)], "field", "audio"),
    ("six", [[1.0] * 6] * 40, "field", "table"),
    ("many", [[1.0] * 600] * 40, "field", "series"),
    ("walk", [[[1.0, 2.0]] * (5 + i) for i in range(40)], "field", "series"),
    ("tags", [["a", "b"]] * 40, "field", "text"),
    ("image", [b.png(0)] * 40, "field", "image"),
    ("sound", [b.wav(0)] * 40, "field", "audio"),
    ("heard", [{"array": [0.1, 0.2], "sampling_rate": 8000}] * 40, "field", "audio"),
    ("none", [], "out", ""),
    ("mixed", ["oops", *[i / 7 for i in range(38)], "n/a"], "cell", ""),
    ("mostly_words", [3, *[f"a note of {i} words" for i in range(38)], 0.5], "field", "text"),
    ("mixed_lists", [None, "x", *[[1.0] * 6] * 38], "field", "table"),
    (
        "words_and_lists",
        [["a"], {"b": 1}, *[f"a note of {i} words" for i in range(38)]],
        "field",
        "text",
    ),
    ("day", [f"2024-01-{1 + i % 28:02d}" for i in range(40)], "cell", ""),
    ("id", [f"2024-01-01T{i // 2:02d}:{i % 2:02d}:00Z" for i in range(40)], "cell", ""),
    ("session", [f"2024-01-{1 + i % 9:02d}" for i in range(40)], "label", "category"),
    ("acc_y", [i / 7 for i in range(40)], "cell", ""),
    ("y", [i / 7 for i in range(40)], "label", "number"),
    ("hair_long", [i / 7 for i in range(40)], "cell", ""),
    ("blood_group", [i % 4 for i in range(40)], "cell", ""),
    ("group_id", [i % 4 for i in range(40)], "label", "category"),
    ("price_index", [i * 3 for i in range(40)], "cell", ""),
    ("id", [None, *[f"x{i}" for i in range(39)]], "out", ""),
    ("id", [None, *[i * 3 for i in range(39)]], "out", ""),
]


@pytest.mark.parametrize("name, cells, role, kind", COLUMNS, ids=[c[0] for c in COLUMNS])
def test_what_a_column_is(name, cells, role, kind):
    guess = infer_schema.guess_column(name, [c for c in cells if c is not None], lambda: cells)
    assert guess.role == role and (not kind or guess.kind == kind), guess


@pytest.mark.parametrize(
    "names, labels",
    [
        ("x y z", ""), ("X y", ""), ("y n", "y"), ("start_lat start_long end_lat", "start_lat start_long"),
        ("lat long", "lat long"), ("late along", ""), ("home_latitude n", "home_latitude"),
    ],
)  # fmt: skip
def test_a_word_may_need_its_neighbours(names, labels):
    numbers = [i / 7 for i in range(40)]
    dataset = data.open(
        {name: numbers for name in names.split()}
        | {"words": [f"some words {i}" for i in range(40)]}
    )
    assert " ".join(dataset.labels) == labels


def test_y_beside_an_array_x_is_the_answer():
    assert list(
        data.open({"x": np.random.default_rng(0).normal(size=(40, 8)), "y": [0, 1] * 20}).labels
    ) == ["y"]


def test_mixed_cells_do_not_stop_init(tmp_path):
    rows = [
        {"reading": "oops" if i % 10 == 3 else i / 7, "words": f"some words {i}"} for i in range(40)
    ]
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    report = data.init(tmp_path)
    table = next(f for f in report.fields if f.name == "table")
    assert "'oops' is not a number" in table.reason and 0 < table.unreadable < 0.2
    assert data.open(tmp_path).value(0, "table").tolist() == [0]


def test_a_field_without_a_readable_value_is_left_out(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02d}.png").write_text("no picture", encoding="utf-8")
        (tmp_path / f"{i:02d}.txt").write_text(f"some words {i}", encoding="utf-8")
    report, toml = data.init(tmp_path), tmp_path / "dataset.toml"
    why = "all 12 values of 'image' could not be read: not a picture in any format"
    assert report.left_out["image"].startswith(why) and why in str(report)
    assert [f.name for f in report.fields] == [*data.open(tmp_path).fields] == ["text"]
    assert f"# Left out: image: {why}" in toml.read_text(encoding="utf-8")
    # one picture that can be read, whichever it is, and the field stays
    Image.new("RGB", (8, 8)).save(tmp_path / "10.png")
    assert {f.name for f in data.init(tmp_path, force=True).fields} == {"image", "text"}
    (tmp_path / "10.png").write_text("no picture", encoding="utf-8")
    toml.unlink()
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    with pytest.raises(AmodalError, match=f"no usable field: [^\\n]*\n  image: {why}"):
        data.init(tmp_path)
    assert not toml.exists()


def test_a_table_of_files_none_of_which_is_a_picture(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_text("no picture", encoding="utf-8")
    lines = [f"{i}.jpg,some words {i}\n" for i in range(12)]
    (tmp_path / "t.csv").write_text("photo file,words\n" + "".join(lines), encoding="utf-8")
    report = data.init(tmp_path / "t.csv")
    assert [f.name for f in report.fields] == ["words"]
    assert "all 12 values of 'photo file' could not be read" in report.left_out["photo file"]


def test_dates_are_cells_of_the_table(tmp_path):
    lines = [f"2024-01-{1 + i % 28:02d},some words {i}\n" for i in range(60)]
    (tmp_path / "t.csv").write_text("day,words\n" + "".join(lines), encoding="utf-8")
    dataset = data.open(tmp_path / "t.csv")
    assert dataset.fields["table"].columns == ("day",) and not dataset.fields["table"].categories
    assert (
        dataset.value(1, "table")[0] > dataset.value(0, "table")[0] > 1.7e9 and not dataset.labels
    )


@pytest.mark.parametrize("make", [b.folder, b.tars])
def test_a_key_column_beside_files_is_left_out(tmp_path, make):
    root = make(tmp_path / "set")
    if make is b.folder:
        for i, stem in enumerate(sorted({file.with_suffix("") for file in root.rglob("r*.*")})):
            stem.with_suffix(".json").write_text(json.dumps({"id": i}), encoding="utf-8")
    else:
        for tar in root.iterdir():
            tar.unlink()
        _with_numbers(root / "part-0.tar")
    report = data.init(root)
    assert (
        "called after their files" in report.left_out["json.id"]
        and data.open(root).schema.key == ""
    )


def _with_numbers(tar):
    members = [
        (f"new/{i}.json", json.dumps({"id": i, "species": "ab"[i % 2]}).encode()) for i in range(4)
    ]
    members += [(f"new/{i}.txt", f"some words {i}".encode()) for i in range(4)]
    with tarfile.open(tar, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def test_tars_called_shard_are_no_interrupted_pack(tmp_path):
    b.tars(tmp_path, shards=2)
    for s in range(2):
        (tmp_path / f"part-{s}.tar").rename(tmp_path / f"shard-{s:04d}.tar")
    assert len(data.open(tmp_path)) == b.N
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "shard-0123456789abcdef.arrow").write_bytes(b"x")
    with pytest.raises(AmodalError, match="interrupted pack"):
        data.open(tmp_path / "pack")


def test_fields_have_names_that_a_network_can_have(tmp_path):
    words = [f"some words {i}" for i in range(10)]
    columns = ["type", "type_", "values", "a.b", "a:b", "_apply", "plain", "fused"]
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({name: f"{name} {text}" for name in columns}) + "\n" for text in words),
        encoding="utf-8",
    )
    data.init(tmp_path)
    dataset = data.open(tmp_path)
    assert set(dataset.fields) == {
        "type__",
        "type_",
        "values_",
        "a_b",
        "a_b_",
        "_apply_",
        "plain",
        "fused_",
    }
    assert {dataset.columns[f].split()[0] for f in dataset.fields} == set(columns)
    assert (
        dataset.raw(0, "type__") == "type some words 0"
        and dataset.raw(0, "type_") == "type_ some words 0"
    )
    Encoder(dataset.fields, size="nano")


def test_the_names_that_torch_keeps_are_all_known():
    taken = {*dir(torch.nn.ModuleDict()), *dir(torch.nn.ParameterDict())}
    assert {name for name in taken if not name.startswith("_")} <= RESERVED
    assert not {f"{name}_" for name in RESERVED} & taken


def test_report_warns_of_groups_and_of_little_data(tmp_path):
    def report(n, extra=""):
        lines = [f"p{i % 9},some words {i},{'train' if i % 3 else 'test'}\n" for i in range(n)]
        (tmp_path / f"t{n}.csv").write_text(
            f"patient,words,{extra or 'other'}\n" + "".join(lines), encoding="utf-8"
        )
        return data.init(tmp_path / f"t{n}.csv", force=True)

    (grouped,) = report(200).warnings()
    assert (
        'uncomment split_by = "patient" in dataset.toml' in grouped and "of one patient" in grouped
    )
    assert "uncomment" in str(report(200)).replace("\n", " ")
    assert '# split_by = "patient"' in (tmp_path / "dataset.toml").read_text(encoding="utf-8")
    assert report(201, "split").warnings() == []
    assert "records to train on" in report(18).warnings()[-1]


def test_models_bring_their_own_modalities(tmp_path):
    dataset = data.open(b.table(tmp_path, "csv"))
    small = modalities.make("image", size=8)
    other = dataset.with_fields({"file": small})
    assert (
        list(other.fields) == ["file"]
        and other.value(0, "file").shape == (3, 8, 8)
        and other.cache is not dataset.cache
    )
    assert dataset.with_fields(dataset.fields).cache is dataset.cache
    assert dataset.with_fields({"cells": modalities.make("table", columns=["height"])}).value(
        0, "cells"
    ).tolist() == [10]
    with pytest.raises(AmodalError, match="no field of .* is called 'flie'. Did you mean file"):
        dataset.with_fields({"flie": small})
    with pytest.raises(AmodalError, match="'caption' is text .* but image is expected"):
        dataset.with_fields({"caption": small})
    assert list(dataset.select(["caption"]).fields) == ["caption"]
    with pytest.raises(AmodalError, match="Did you mean caption"):
        dataset.select(["captoin"])


def test_subset_keeps_parts_and_labels(tmp_path):
    dataset = data.open(b.table(tmp_path, "jsonl"))
    some = dataset.subset([7, 2, 4])
    assert some.keys == ["k07", "k02", "k04"] and some.label("species").tolist() == [
        b.SPECIES[i] for i in (7, 2, 4)
    ]
    assert (
        some.parts.tolist() == dataset.parts[[7, 2, 4]].tolist()
        and some.fingerprint != dataset.fingerprint
    )
    assert np.array_equal(some.value(0, "file"), dataset.value(7, "file"))


def test_fingerprint_changes_with_the_data(tmp_path):
    first = data.open(b.folder(tmp_path)).fingerprint
    assert data.open(tmp_path).fingerprint == first
    (tmp_path / "dog" / "r00.png").write_bytes(b.png(1))
    assert data.open(tmp_path).fingerprint != first


@pytest.mark.parametrize("name", bundled.NAMES)
def test_bundled(name):
    dataset = data.open(name)
    assert len(dataset) >= 2000 and dataset.labels and data.open(dataset) is dataset
    assert all(dataset.present(field).any() for field in dataset.fields)
    (batch,) = data.Loader(dataset, dataset.split("valid")[:32], batch=32, shuffle=False)
    assert batch.size == 32 and set(batch.sources) == set(dataset.fields)
