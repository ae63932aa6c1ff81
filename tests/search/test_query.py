"""Records of a folder, indexed and searched by words, pictures and mixes of them."""

import json
import shutil
from io import StringIO

import pytest
import torch
from PIL import Image
from rich.console import Console

import amodal
from amodal.core import AmodalError
from amodal.evaluate import embed_values
from amodal.search import Hit, Index, as_json, picture_sheet, search, table


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    records = amodal.open(folder)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    index = Index.open(tmp_path_factory.mktemp("index"), encoder=encoder, fingerprint="f").update(
        records
    )
    names = {type(m).__name__: f for f, m in records.fields.items()}
    return records, encoder, index, names["Image"], names["Text"]


def test_a_record_finds_itself_by_each_field_and_by_both(made):
    records, encoder, index, image, text = made
    assert len(index) == 80
    i = int(records.present(text).nonzero()[0][4])
    for query, fields in (
        ({image: records.raw(i, image)}, [image]),
        ({"text": records.raw(i, text)}, [text]),
    ):
        hits = search(index, encoder, query, k=3, fields=fields)
        assert (
            hits[0].key == records.keys[i] and hits[0].score > 0.999 and hits[0].source == fields[0]
        )
    mixed = {"image": records.raw(i, image), "text": records.raw(i, text)}
    a, b = (embed_values(encoder, f, [records.raw(i, f)])[0] for f in (image, text))
    expected = torch.nn.functional.normalize(a, dim=0) + 3 * torch.nn.functional.normalize(b, dim=0)
    by_vector = search(index, encoder, {"anything": expected}, k=5)
    assert [h.key for h in search(index, encoder, mixed, k=5, weights={"text": 3})] == [
        h.key for h in by_vector
    ]
    assert len(search(index, encoder, {"text": ["a red picture", "a blue picture"]}, k=4)) == 4


def test_a_record_of_the_index_is_a_part_of_a_query_and_is_not_found(made):
    records, encoder, index, image, text = made
    i = int(records.present(text).nonzero()[0][4])
    key = records.keys[i]
    plain = search(index, encoder, {"x": index.vector(key)}, k=6)
    assert [h.key for h in search(index, encoder, {}, k=5, like=[key])] == [
        h.key for h in plain if h.key != key
    ][:5]
    words = embed_values(encoder, text, ["a red picture"])[0]
    mixed = torch.nn.functional.normalize(words, dim=0) - 0.5 * index.vector(key)
    expected = [h.key for h in search(index, encoder, {"x": mixed}, k=6) if h.key != key][:5]
    found = search(
        index, encoder, {"text": "a red picture"}, k=5, like=[key], weights={f"like:{key}": -0.5}
    )
    assert [h.key for h in found] == expected
    with pytest.raises(AmodalError, match="the index has no record 'nobody'"):
        search(index, encoder, {}, like=["nobody"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": "3"}, "k must be a whole number; it is '3'"),
        ({"fields": "image"}, "fields must be a list of names, such as .* it is 'image'"),
        ({"like": "red/000"}, "like must be a list of names of records; it is 'red/000'"),
        ({"where": "folder"}, "where must be a dict of label -> value, or a function"),
        ({"weights": {"text": float("nan")}}, "weights must be a dict of part -> finite number"),
        ({"weights": 2}, "weights must be a dict of part -> finite number; it is 2"),
    ],
)
def test_options_of_another_type_are_said(made, options, message):
    _, encoder, index, _, _ = made
    with pytest.raises(AmodalError, match=message):
        search(index, encoder, {"text": "a red picture"}, **options)


def test_a_part_without_values_is_said(made):
    _, encoder, index, _, _ = made
    with pytest.raises(AmodalError, match="the part 'text' of the query is empty"):
        search(index, encoder, {"text": []})


def test_filters_are_labels_of_the_records(made):
    records, encoder, index, image, text = made
    label = next(iter(records.labels))
    hits = search(index, encoder, {"text": "a red picture"}, k=50, where={label: "red"})
    assert len(hits) == 20 and all(h.labels[label] == "red" for h in hits)


def test_an_update_embeds_only_what_is_new_or_changed(folder, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(folder, root)
    records = amodal.open(root)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    index = Index.open(tmp_path / "index", encoder=encoder, fingerprint="f").update(records)
    seen = []
    original = encoder.features
    encoder.features = lambda batch: (seen.extend(batch.keys), original(batch))[1]
    reopened = amodal.open(root).with_fields(encoder.fields)
    index.update(reopened)
    assert seen == []
    first = sorted(root.rglob("*.png"))[0]
    Image.new("RGB", (30, 30), (1, 2, 3)).save(first)
    shutil.copy(sorted(root.rglob("*.png"))[1], root / "red" / "new.png")
    gone = sorted((root / "yellow").glob("*"))[0]
    for file in root.glob(f"yellow/{gone.stem}.*"):
        file.unlink()
    changed = amodal.open(root).with_fields(encoder.fields)
    index.update(changed)
    assert len(seen) == 2 and len(index) == 81
    index.update(changed, prune=True)
    assert len(seen) == 2 and sorted(index.keys) == sorted(changed.keys) and len(index) == 80
    assert not index.bad


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(folder, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(folder, root)
    (root / "red" / "000.png").write_bytes(b"no picture")
    records = amodal.open(root)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    index = Index.open(tmp_path / "index", encoder=encoder).update(records)
    assert len(index) == 80 and len(index.bad) == 1 and "000" in index.bad[0].key


def test_results_as_table_json_and_pictures(made, tmp_path):
    records, encoder, index, image, text = made
    hits = search(index, encoder, {"text": "a red picture"}, k=4)
    console = Console(file=StringIO(), width=120)
    console.print(table(hits))
    assert hits[0].key in console.file.getvalue() and "score" in console.file.getvalue()
    read = json.loads(as_json(hits))
    assert [r["key"] for r in read] == [h.key for h in hits] and set(read[0]) == {
        "key",
        "score",
        "source",
        "labels",
        "part",
        "name",
    }
    assert Image.open(picture_sheet(hits, records, tmp_path / "hits.png")).size[1] > 300
    with pytest.raises(AmodalError, match="no record 'ghost'"):
        picture_sheet([Hit("ghost", 1.0, image)], records, tmp_path / "x.png")


def test_queries_that_cannot_be_are_explained(made, tmp_path):
    records, encoder, index, image, text = made
    with pytest.raises(AmodalError, match="no field of this encoder is called 'audio'"):
        search(index, encoder, {"audio": "x.wav"})
    with pytest.raises(AmodalError, match="cannot read.*as .*image"):
        search(index, encoder, {"image": str(tmp_path / "none.png")})
    with pytest.raises(AmodalError, match="empty text"):
        search(index, encoder, {"text": ""})
    with pytest.raises(AmodalError, match="something to look for"):
        search(index, encoder, {})
    with pytest.raises(AmodalError, match="Did you mean text"):
        search(index, encoder, {"text": "a"}, weights={"texts": 2})
    with pytest.raises(AmodalError, match="cancel each other out"):
        search(index, encoder, {"a": torch.eye(16)[0], "b": torch.eye(16)[0]}, weights={"b": -1})
    with pytest.raises(AmodalError, match="k = 0"):
        search(index, encoder, {"text": "a"}, k=0)


def test_hits_that_the_data_no_longer_has_are_passed_over_with_a_note(made, tmp_path, capsys):
    records, encoder, index, image, text = made
    hits = search(index, encoder, {"text": "a red picture"}, k=3)
    sheet = picture_sheet(
        [hits[0], Hit("[gone]/000", 0.5, image), hits[1]], records, tmp_path / "hits.png"
    )
    assert Image.open(sheet).size[1] < 500, "two rows"
    assert "1 of 3 hits are not drawn" in (said := capsys.readouterr().err) and "[gone]/000" in said
