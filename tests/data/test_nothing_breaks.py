"""What once stopped, filled the memory or was lost without a word."""

import codecs
import json
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image as Picture

import amodal
from amodal.cli import main
from amodal.cli.queries import example_query
from amodal.core import AmodalError, AmodalWarning
from amodal.data.attributes import Attributes
from amodal.data.infer import infer_reader
from amodal.data.readers._parts import Lists
from amodal.data.readers.in_memory import Rows
from amodal.modalities import BadValue
from amodal.modalities.events import Events
from amodal.modalities.image import Image
from amodal.modalities.series import Series
from amodal.modalities.shared.requests import Limits
from amodal.modalities.text import Text


def png(width, height, pixels, *, depth=8, colour=0):
    """A PNG whose header says one thing and whose pixels may be another."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


LINE = png(1, 50_000_000, b"\0" * 10)
SHORT = png(2000, 2000, b"\0" * 10)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(LINE, "1 x 50,000,000 pixels; a side"), (SHORT, "end after 10 of 4,000,000 bytes")],
)
def test_a_small_file_is_no_large_picture(data, reason):
    image = Image(size=16)
    assert len(data) < 100
    with pytest.raises(BadValue, match=reason):
        image.decode(data)
    with pytest.raises(BadValue, match=reason):
        image.bounds(data, Limits())


def test_dense_pictures_that_are_whole_are_read(tmp_path):
    for mode, colour in (("L", 7), ("RGB", (1, 2, 3)), ("1", 1), ("RGBA", (1, 2, 3, 4))):
        Picture.new(mode, (3000, 2000), colour).save(tmp_path / "flat.png")
        assert (tmp_path / "flat.png").stat().st_size < 60_000
        Image(size=16, channels=3).decode(tmp_path / "flat.png")


def test_such_pictures_go_to_quarantine_and_measure_nothing(tmp_path):
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Picture.fromarray(noise).save(tmp_path / f"{i}.png")
    (tmp_path / "line.png").write_bytes(LINE)
    (tmp_path / "short.png").write_bytes(SHORT)
    dataset = amodal.open(tmp_path)
    assert dataset.fields["image"].size == 16
    loader = amodal.data.Loader(dataset, range(len(dataset)), batch=14, shuffle=False)
    (batch,) = list(loader)
    assert len(batch.columns["image"]) == 12
    assert {bad.key for bad in loader.bad} == {"line", "short"}


def test_a_pipe_among_the_files_is_passed_over(tmp_path):
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Picture.fromarray(noise).save(tmp_path / f"{i}.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = amodal.open(tmp_path)
    assert len(dataset) == 13, "a link that leads nowhere is a record, and ends in quarantine"
    with pytest.raises(AmodalError, match="a pipe, a socket or a device"):
        amodal.open(tmp_path / "pipe.png")
    with pytest.raises(BadValue, match="it is no file, but a pipe"):
        Image(size=16).decode(tmp_path / "pipe.png")


def test_a_link_to_itself_is_set_aside_and_links_to_folders_are_said(tmp_path):
    root, other = tmp_path / "data", tmp_path / "other"
    for i in range(5):
        for folder in (root, other):
            folder.mkdir(exist_ok=True)
            Picture.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(folder / f"{i}.png")
    (root / "self.png").symlink_to("self.png")
    (root / "loop").symlink_to(".")
    (root / "more").symlink_to(other)
    with pytest.warns(AmodalWarning, match="links to folders are not followed: loop in .* 1 more"):
        dataset = amodal.open(root)
    assert dataset.keys == ["0", "1", "2", "3", "4", "self"]
    assert dataset.value(1, "image") is not None
    with pytest.raises(AmodalError, match="self"):
        dataset.value(5, "image")


def test_a_folder_in_the_place_of_the_schema_is_said(tmp_path):
    Picture.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "dataset.toml").mkdir()
    with pytest.raises(AmodalError, match="is a folder, where the schema is to be written"):
        amodal.init(tmp_path, force=True)


def test_a_cell_beyond_float32_is_named_and_set_aside(tmp_path):
    rows = [f"{i / 3},{i % 7}" for i in range(40)]
    rows[7] = "1.5,1e39"
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *rows]), encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.csv")
    table = dataset.fields["table"]
    assert np.isfinite(table.mean).all() and max(table.std) < 10
    loader = amodal.data.Loader(dataset, range(40), batch=40, shuffle=False)
    (batch,) = list(loader)
    assert len(batch.columns["table"]) == 39
    (bad,) = loader.bad
    assert bad.key == dataset.keys[7] and "the cell 'b' is 1e+39" in bad.reason
    run = tmp_path / "run"
    amodal.pretrain("simclr", dataset, run, size="nano", steps=2, batch_size=32, progress=False)
    assert dataset.keys[7] in (run / "quarantine.jsonl").read_text(encoding="utf-8")


def as_rows(root, values):
    """A table of two columns, one number of which is not like the others."""
    rows = [f"{i % 7},{value[0, 0]}" for i, value in enumerate(values)]
    (root / "t.csv").write_text("\n".join(["a,b", *rows]), encoding="utf-8")


def as_series(root, values):
    for i, value in enumerate(values):
        np.save(root / f"{i}.npy", value)


def as_pictures(root, values):
    for i, value in enumerate(values):
        Picture.fromarray(value[:, :16].copy(), mode="F").save(root / f"{i}.tiff")


@pytest.mark.parametrize("write", [as_rows, as_series, as_pictures])
@pytest.mark.parametrize("largest", [3e38, 40])
def test_init_names_the_number_beside_which_all_others_are_one(tmp_path, write, largest):
    values = np.random.default_rng(0).normal(size=(60, 32, 20)).astype(np.float32)
    values[31, :8, :2] = largest
    write(tmp_path, values)
    report = amodal.init(tmp_path)
    found = [line for line in report.warnings() if "are one number" in line]
    assert len(found) == (largest > 1e30)
    keys = report.dataset.keys
    record = keys[31] if write == as_rows else "31"
    assert all(f"of the record {record!r} has the size 3e+38" in line for line in found)
    assert all(line in " ".join(str(report).split()) for line in found)


def test_a_sample_beyond_any_sound_is_named_and_measures_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        wave = rng.normal(0, 0.1, 4000).astype(np.float32)
        wave[400] = 1e30 if i == 3 else 0
        soundfile.write(tmp_path / f"{i}.wav", wave, 16000, subtype="FLOAT")
    report = amodal.init(tmp_path)
    text = (tmp_path / "dataset.toml").read_text(encoding="utf-8")
    assert "nan" not in text and "inf" not in text
    assert "the sample at 0.025 s is 1e+30" in str(report)
    audio = amodal.open(tmp_path).fields["audio"]
    with pytest.raises(BadValue, match="numbers are at most 1e"):
        audio.decode_finite(tmp_path / "3.wav")


def test_infinite_samples_and_cells_of_events_are_missing():
    value = np.zeros((9, 2), np.float32)
    value[4, 1] = -np.inf
    assert np.isnan(Series(channels=("x", "y")).decode_finite(value)[4, 1])
    rows = [{"t": 0, "price": 1}, {"t": 2, "price": 1e60}]
    read = Events(columns=("price",), time="t").decode_finite(rows)
    assert read[0, 1] == 1 and np.isnan(read[1, 1])


def test_work_on_a_wide_table_grows_with_its_columns(tmp_path):
    """Counted, as time is noisy: how often a name is looked for among all names of columns."""

    class Name(str):
        compared = 0

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def compared(width):
        columns = {Name(f"c{i}"): [i + row / 3 for row in range(12)] for i in range(width)}
        reader = Rows([Lists(columns, 12)])
        Name.compared = 0
        dataset = infer_reader(lambda key: reader)
        dataset.value(3, "table")
        return Name.compared

    assert compared(400) < 3 * compared(200), "twice the columns, four times the work"


def csv_lines(n=40):
    return [f"k{i},{i / 3},a sentence about thing {i}" for i in range(n)]


@pytest.mark.parametrize("key", ["key", "code"], ids=["with a key", "without"])
def test_a_damaged_line_of_a_csv_is_set_aside(tmp_path, key):
    head = f"{key if key == 'key' else 'kind'},weight,words"
    lines = csv_lines()
    (tmp_path / "whole.csv").write_text("\n".join([head, *lines]), encoding="utf-8")
    lines[7] += ",and,more"
    (tmp_path / "t.csv").write_text("\n".join([head, *lines]), encoding="utf-8")
    whole, dataset = amodal.open(tmp_path / "whole.csv"), amodal.open(tmp_path / "t.csv")
    assert len(dataset) == 40 and dataset.fields.keys() == whole.fields.keys()
    assert [k for i, k in enumerate(dataset.keys) if i != 7] == [
        k for i, k in enumerate(whole.keys) if i != 7
    ], "other rows keep their names"
    loader = amodal.data.Loader(dataset, range(40), batch=40, shuffle=False)
    (batch,) = list(loader)
    assert all(len(column) == 39 for column in batch.columns.values())
    assert {(b.key, b.reason) for b in loader.bad} == {
        (dataset.keys[7], "t.csv, line 9: 5 cells, but the first line names 3")
    }
    assert "damaged lines" in str(amodal.init(tmp_path / "t.csv"))


def test_every_verb_goes_on_beside_a_damaged_line(tmp_path):
    # also columns that no field reads: cluster and curate describe records by them
    lines = [f"k{i},a sentence {i} of words {i * 7 % 13},{i / 3},{'ab'[i % 2]}" for i in range(40)]
    lines[7] = "k7,too,many,cells,by,far"
    (tmp_path / "t.csv").write_text("\n".join(["code,words,weight,side", *lines]), encoding="utf-8")
    data, run = tmp_path / "t.csv", tmp_path / "run"
    model = amodal.pretrain("clip", data, run, size="nano", steps=2, batch_size=8)
    model.index(data)
    assert model.search(text="a sentence 3", k=3)
    assert model.index(data)  # stamps of what is damaged are compared, too
    for verb in (
        ["cluster", run, "--data", data],
        ["diagnose", run, "--data", data],
        ["curate", data, "--by", "duplicates", "--out", tmp_path / "unlike"],
        ["evaluate", run, "--data", data, "--label", "side", "--protocols", "knn"],
    ):
        main(list(map(str, verb)))


def test_an_attribute_of_a_damaged_line_is_missing(tmp_path):
    lines = [f"k{i},a sentence {i} of words,{i / 3}" for i in range(40)]
    lines[7] = "k7,too,many,cells,by,far"
    (tmp_path / "t.csv").write_text("\n".join(["code,words,weight", *lines]), encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.csv").select(["words"])  # so that no field reads weight
    weights = Attributes(dataset).values("weight", dataset.keys)
    assert np.isnan(weights[7]) and np.isfinite(np.delete(weights, 7)).all()


def test_damaged_lines_of_jsonl_are_set_aside(tmp_path):
    lines = [json.dumps({"words": f"a sentence about thing {i}", "x": i / 3}) for i in range(30)]
    lines[4], lines[9], lines[11] = '{"words": "cut', "[1, 2]", '{"x": ' + "9" * 5000 + "}"
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.jsonl")
    loader = amodal.data.Loader(dataset, range(30), batch=30, shuffle=False)
    (batch,) = list(loader)
    assert len(batch.columns["words"]) == 27
    reasons = {bad.reason.partition(": ")[0] for bad in loader.bad}
    assert reasons == {"t.jsonl, line 5", "t.jsonl, line 10", "t.jsonl, line 12"}
    assert len(set(dataset.keys)) == 30


def test_a_table_that_is_mostly_damaged_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("one\n" + "\n".join(csv_lines()), encoding="utf-8")
    with pytest.raises(AmodalError, match="40 of 40 lines cannot be read. Is the first line"):
        amodal.open(tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{\n}\n', encoding="utf-8")
    with pytest.raises(AmodalError, match="2 of 3 lines cannot be read"):
        amodal.open(tmp_path / "t.jsonl")


def test_encodings_are_read_or_refused_with_the_remedy(tmp_path):
    text = "\n".join(["name,weight", *(f"Jörg {i} der Größere,{i / 3}" for i in range(20))])
    marks = {"g": codecs.BOM_UTF32_LE, "h": codecs.BOM_UTF32_BE}
    encodings = {"a": "utf-8", "b": "utf-16", "c": "utf-8-sig", "e": "utf-16-le", "f": "utf-16-be"}
    encodings |= {"g": "utf-32-le", "h": "utf-32-be", "i": "utf-32-le", "j": "utf-32-be"}
    for name, encoding in encodings.items():
        (tmp_path / f"{name}.csv").write_bytes(marks.get(name, b"") + text.encode(encoding))
    keys = {tuple(amodal.open(tmp_path / f"{name}.csv").keys) for name in encodings}
    assert len(keys) == 1
    (tmp_path / "g.csv").write_bytes((tmp_path / "g.csv").read_bytes()[:-2])
    with pytest.raises(AmodalError, match="no text in UTF-32.*Is it whole"):
        amodal.open(tmp_path / "g.csv")


@pytest.mark.parametrize(
    ("encoding", "quote", "name"),
    [("latin-1", "'", "LATIN1"), ("cp1252", "\u2019", "WINDOWS-1252")],
)
def test_the_remedy_for_an_older_encoding_leaves_one_whole_table(tmp_path, encoding, quote, name):
    text = "\n".join(["name,weight", *(f"Jörg{quote}s {i} der Größere,{i / 3}" for i in range(20))])
    file = tmp_path / "my d.csv"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(AmodalError, match=f"iconv -f {name} -t UTF-8 ") as error:
        amodal.open(file)
    command = str(error.value).partition("say: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert file.read_text(encoding="utf-8") == text
    assert amodal.open(tmp_path).reader.get(3, "name") == f"Jörg{quote}s 3 der Größere"


@pytest.mark.parametrize("name, role", [("key", "key"), ("words", "field")])
def test_a_key_may_have_spaces(tmp_path, name, role):
    rows = [f"rec {i},a sentence about thing {i} of many" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join([f"{name},text", *rows]), encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.csv")
    assert (dataset.keys[3] == "rec 3") == (role == "key")
    (tmp_path / "t.csv").write_text("\n".join([f"{name},text", *rows, rows[0]]), encoding="utf-8")
    assert "not unique" in str(amodal.init(tmp_path / "t.csv")) or name != "key"


def test_a_run_knows_its_data_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(
        "\n".join(["a,b", *(f"{i / 3},{i % 7}" for i in range(40))]), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    amodal.pretrain("simclr", "t.csv", "run", size="nano", steps=2, batch_size=16, progress=False)
    path = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["data"][
        "path"
    ]
    assert Path(path).is_absolute()
    monkeypatch.chdir("/")
    assert len(amodal.open(path)) == 40


def test_an_example_of_a_query_can_be_pasted():
    text = Text()
    assert example_query({'the "best" text': text, "note": text}) == "--query 'the \"best\" text'=…"


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\f", "\v"])
def test_a_line_of_a_csv_ends_where_it_ends(tmp_path, mark):
    lines = [f"a sentence{mark}about thing {i},{i / 3}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["words,x", *lines]), encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.csv")
    assert len(dataset) == 12 and dataset.raw(3, "words") == f"a sentence{mark}about thing 3"


def test_line_ends_of_other_systems_are_line_ends(tmp_path):
    text = "\n".join(["words,x", *(f"a sentence about {i},{i / 3}" for i in range(12))])
    for name, end in (("a", "\n"), ("b", "\r\n"), ("c", "\r")):
        (tmp_path / f"{name}.csv").write_bytes(text.replace("\n", end).encode())
    assert len({tuple(amodal.open(tmp_path / f"{name}.csv").keys) for name in "abc"}) == 1


def test_a_damaged_line_has_no_label_in_a_mixture_and_no_value_in_a_frame(tmp_path):
    lines = [f"a sentence about {i},kind {i % 3}" for i in range(20)]
    lines[7] += ",more,and more"
    (tmp_path / "t.csv").write_text("\n".join(["words,kind", *lines]), encoding="utf-8")
    dataset = amodal.open(tmp_path / "t.csv")
    assert dataset.label("kind")[7] is None and dataset.to_pandas()["words"].isna()[7]
    mixture = amodal.Mixture([dataset, amodal.open({"words": ["another", "and one"]})])
    assert mixture.label("kind")[7] is None and mixture.label("kind")[6] == "kind 0"
