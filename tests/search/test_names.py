"""Rows of a table without a key are called by hashes; a hit says what people call them."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import amodal
from amodal.cli import main
from amodal.search import as_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("names")
    (out / "pics").mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out / "pics" / f"p{i}.png")
    rows = [f"pics/p{i}.png,a picture of thing {i} and others" for i in range(30)]
    (out / "pictures.csv").write_text("\n".join(["image,note", *rows]), encoding="utf-8")
    rows = [f"a car of sort {i} and others,{i / 7}" for i in range(30)]
    (out / "cars.csv").write_text("\n".join(["note,weight", *rows]), encoding="utf-8")
    named = [f"car {i},a car of sort {i} and others,{i / 7}" for i in range(30)]
    (out / "named.csv").write_text("\n".join(["key,note,weight", *named]), encoding="utf-8")
    return out


def model_of(folder, table, out, data=None):
    model = amodal.pretrain(
        "clip", folder / table, out, size="nano", steps=1, batch_size=8, progress=False
    )
    model.index(data or folder / table)
    return model


@pytest.mark.parametrize(
    ("table", "name"),
    [("pictures.csv", "pics/p{}.png"), ("cars.csv", "cars.csv, row {}"), ("named.csv", "")],
)
def test_a_hit_has_the_file_or_the_row(folder, tmp_path, table, name):
    model = model_of(folder, table, tmp_path / "run")
    dataset = amodal.open(folder / table)
    note = {key: dataset.raw(i, "note") for i, key in enumerate(dataset.keys)}
    hits = model.search(text="thing 7", k=30)
    assert len(hits) == 30
    for hit in hits:
        number = int("".join(c for c in note[hit.key] if c.isdigit()))
        assert hit.name == name.format(number + ("row" in name))  # rows are counted from 1
    assert json.loads(as_json(hits))[0]["name"] == hits[0].name


def test_the_table_of_hits_shows_names_only_where_there_are_some(folder, tmp_path, capsys):
    for table, shown in (("pictures.csv", True), ("named.csv", False)):
        run = tmp_path / table
        model_of(folder, table, run)
        main(["search", str(run), "--text", "thing 7", "--k", "2"])
        said = capsys.readouterr().out
        assert ("name" in said and "pics/p" in said) == shown


def test_rows_of_a_selection_have_no_number(folder, tmp_path):
    data = amodal.open(folder / "cars.csv")
    model = model_of(folder, "cars.csv", tmp_path / "run", data.subset(range(5, 25)))
    assert {hit.name for hit in model.search(text="sort 7", k=30)} == {""}


def test_an_index_without_names_is_read(folder, tmp_path):
    """As earlier versions wrote it."""
    model = model_of(folder, "pictures.csv", tmp_path / "run")
    engine = model.open_index()
    engine.delete(list(engine.keys))
    engine.names = {}
    vectors = model.embed(folder / "pictures.csv").aligned
    engine.add(amodal.open(folder / "pictures.csv").keys, vectors)
    assert {hit.name for hit in model.search(text="thing 7", k=3)} == {""}


def test_a_field_may_be_called_like_an_option(tmp_path, capsys):
    rng = np.random.default_rng(0)
    columns = {name: [*rng.normal(size=(20, 5)).astype(np.float32)] for name in ("k", "where")}
    run = tmp_path / "run"
    model = amodal.pretrain("clip", columns, run, size="nano", steps=1, progress=False)
    model.index(columns)
    (best, *_) = model.search({"k": columns["k"][3], "where": columns["where"][3]}, k=5)
    assert best.key == "3"
    main(["search", str(run), "--query", f"k={json.dumps(columns['k'][3].tolist())}", "--k", "4"])
    assert "score" in capsys.readouterr().out


def test_a_file_whose_name_is_no_text_is_indexed(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (16, 16), (i, 200 - i, 9)).save(folder / f"{i}.png")
    odd = os.fsencode(folder) + b"/odd\xff.png"
    with open(odd, "wb") as file:
        file.write((folder / "3.png").read_bytes())
    data = amodal.open(folder)
    model = amodal.Model.of(amodal.Encoder(data.fields, size="nano"), data)
    index = model.index(data, tmp_path / "index")
    assert len(index) == 31 and any(key.startswith("odd") for key in index.keys)
