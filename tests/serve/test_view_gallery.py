"""The gallery of `amodal view`: filters, pages, thumbnails, tags, and training without them."""

import csv
import io
import json
import shlex
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

import amodal
from amodal import cli
from amodal import data as records
from amodal.core import AmodalError, Column, Embeddings
from amodal.data.attributes import Attributes
from amodal.data.splits import PARTS
from amodal.search import Index
from amodal.serve import app
from amodal.serve.api import add_error_handlers
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Limits
from amodal.serve.map_clusters import MapClusters
from amodal.serve.record_filter import RecordFilter
from amodal.serve.tabs import gallery
from amodal.serve.tabs.records import reader_of
from amodal.serve.tags import MAX_TAGS, Tags
from amodal.serve.thumbnails import SIDE, Thumbnails, encoded, media_type
from amodal.serve.view import application, router
from amodal.serve.without import folder_name, unused
from tests.serve.runs import RECORDS, data
from tests.serve.test_view import got

torch.set_num_threads(1)


@pytest.fixture()
def run(model, tmp_path):
    """A copy of the run, whose tags are of one test."""
    shutil.copytree(model.path, tmp_path / "told")
    return tmp_path / "told"


@pytest.fixture()
def page(model, run):
    made = app(model)
    made.include_router(router(run, service=made.state.service, dataset=model.read(data())))
    with TestClient(made) as client:
        yield client


def numbers(page, start=0, count=48, **query):
    """The records of a page of a gallery, asked for until the server has computed it."""
    for _ in range(2000):
        answer = page.post(f"/view/gallery?start={start}&count={count}", json=query)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return [it["number"] for it in answer.json()["records"]]
        time.sleep(0.02)
    raise AssertionError("never done")


@pytest.mark.parametrize(
    "where, wanted",
    [
        ({}, range(RECORDS)),
        ({"label:colour": {"any": ["blue"]}}, range(1, RECORDS, 2)),
        ({"label:colour": {"any": [None]}}, []),
        ({"label:colour": {"any": ["red", "blue", "no such colour"]}}, range(RECORDS)),
        ({"data:cells.age": {"least": 3, "most": 6.5}}, [3, 4, 5, 6]),
        ({"data:cells.age": {"least": 22}, "data:cells.kind": {"any": ["b"]}}, [23]),
        ({"has:image": {"any": ["missing"]}}, []),
        ({"has:image": {"any": ["there"]}, "key": {"holds": "1"}}, [1, *range(10, 20), 21]),
        ({"tag": {"any": [None]}}, range(RECORDS)),
    ],
)
def test_filters(page, where, wanted):
    assert numbers(page, where=where) == list(wanted)


def test_records_of_a_part_of_the_split(page):
    parts = data().parts
    found = numbers(page, where={"part": {"any": ["test"]}})
    assert found == np.flatnonzero(parts == PARTS.index("test")).tolist() and found
    it = page.post("/view/gallery", json={"records": found[:1]}).json()["records"][0]
    assert it == {
        "number": found[0],
        "key": str(found[0]),
        "part": "test",
        "tags": [],
        "value": None,
    }


def test_sorting_and_pages(page):
    by_age = numbers(page, sort="data:cells.age", descending=True, start=4, count=3)
    assert by_age == [19, 18, 17]
    assert numbers(page, sort="key", count=4) == [0, 1, 10, 11], "keys are text"
    assert numbers(page, records=[5, 3, 9, 5]) == [5, 3, 9], "a selection has its own order"
    assert numbers(page, records=[5, 3, 9], descending=True) == [9, 3, 5]
    assert numbers(page, records=[5, 3, 8], sort="label:colour") == [5, 3, 8]
    assert numbers(page, records=[8, 5, 3], sort="label:colour") == [5, 3, 8], "blue, then red"
    assert numbers(page, start=1000) == []


def counted(page, by, **query):
    for _ in range(2000):
        answer = page.post("/view/counts", params={"by": by}, json=query)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return answer.json()
        time.sleep(0.02)
    raise AssertionError("never done")


AGE, COLOUR, KIND = "data:cells.age", "label:colour", "data:cells.kind"


def test_facets_count_the_records_that_pass_the_others(page):
    where = {AGE: {"least": 6, "most": 17}, COLOUR: {"any": ["red"]}}
    passed = {  # without the condition on the facet itself
        AGE: [i for i in range(RECORDS) if i % 2 == 0],
        COLOUR: range(6, 18),
        KIND: [i for i in range(6, 18) if i % 2 == 0],
    }
    for by in (COLOUR, KIND):
        names = [name for name, _ in got(page, "/view/facet", by=by)["names"]]
        label = {COLOUR: ("red", "blue"), KIND: "ab"}[by]
        expected = [sum(label[i % 2] == name for i in passed[by]) for name in names]
        assert counted(page, by, where=where) == {"counts": expected, "missing": 0}
    about = got(page, "/view/facet", by=AGE)
    assert about["bins"] == [1] * RECORDS, "as many bars as ages"
    assert counted(page, AGE, where=where)["counts"] == [1, 0] * (RECORDS // 2)
    assert counted(page, AGE, where=where, records=[3, 4])["counts"] == [
        int(i == 4) for i in range(RECORDS)
    ]
    assert sum(counted(page, "part", where=where)["counts"]) == 6
    page.post("/view/tags", json={"tag": "odd", "records": [1, 6, 8, 20]})
    assert counted(page, "tag", where=where) == {"counts": [2], "missing": 4}
    assert counted(page, "has:image", where=where) == {"counts": [6, 0], "missing": 0}
    wrong = page.post("/view/counts", params={"by": "label:no"}, json={})
    assert wrong.status_code == 404 and "nothing called" in wrong.json()["error"]
    assert page.post("/view/counts", json={}).status_code == 422


def test_facets_have_their_values_and_ranges(page):
    listed = {it["by"]: it["kind"] for it in page.get("/view/facets").json()}
    assert listed["label:colour"] == "classes" and listed["data:cells.age"] == "number"
    assert {"part", "tag", "has:sound", "data:cells.kind"} < listed.keys()
    colour = got(page, "/view/facet", by="label:colour")
    assert sorted(colour["names"]) == [["blue", 12], ["red", 12]] and colour["missing"] == 0
    age = got(page, "/view/facet", by="data:cells.age")
    assert (age["low"], age["high"], age["missing"]) == (0, RECORDS - 1, 0)
    parts = dict(got(page, "/view/facet", by="part")["names"])
    assert sum(parts.values()) == RECORDS and set(parts) == set(PARTS)
    assert got(page, "/view/facet", by="tag") == {
        "kind": "classes",
        "names": [],
        "more": 0,
        "missing": RECORDS,
    }
    assert page.get("/view/facet", params={"by": "label:no"}).status_code == 404


@pytest.mark.parametrize(
    "body, status, words",
    [
        ([], 422, "expected an object"),
        ({"wher": {}}, 422, "Did you mean where"),
        ({"where": []}, 422, "up to 32 conditions"),
        ({"where": {f"label:{i}": {"any": []} for i in range(33)}}, 422, "up to 32 conditions"),
        ({"where": {"label:colour": {}}}, 422, "is an object with any"),
        ({"where": {"label:colour": {"anny": []}}}, 422, "Did you mean any"),
        ({"where": {"label:colour": {"any": "blue"}}}, 422, "a list of up to 1,000 values"),
        ({"where": {"label:colour": {"any": [1]}}}, 422, "a list of up to 1,000 values"),
        ({"where": {"label:colour": {"any": ["x"] * 1001}}}, 422, "a list of up to 1,000 values"),
        ({"where": {"label:colour": {"least": 1}}}, 422, "has any, not least"),
        ({"where": {"part": {"missing": True}}}, 422, "has any, not missing"),
        ({"where": {"key": {"any": ["1"]}}}, 422, "has holds, not any"),
        ({"where": {"key": {"holds": "x" * 501}}}, 422, "a text of up to 500 characters"),
        ({"where": {"label:none": {"any": []}}}, 404, "nothing called 'label:none'"),
        ({"sort": "data:none"}, 404, "nothing called 'data:none'"),
        ({"sort": 3}, 422, "sort is the name"),
        ({"records": [RECORDS]}, 404, f"there is no record {RECORDS}"),
        ({"records": [-1]}, 404, "there is no record -1"),
        ({"records": [True]}, 422, "a list of numbers"),
        ({"records": "all"}, 422, "a list of numbers"),
    ],
)
def test_a_bad_query_gets_a_sentence(page, body, status, words):
    answer = page.post("/view/gallery", json=body)
    assert answer.status_code == status and words in answer.json()["error"], answer.text


def test_a_page_is_bounded_and_a_form_is_not_read(page):
    for bad in ("count=0", "count=201", "start=-1", "start=x"):
        assert page.post(f"/view/gallery?{bad}", json={}).status_code == 422
    answer = page.post("/view/gallery", files={"where": (None, "{}")})
    assert answer.status_code == 415, "another site can send a form, and may not tag records"
    assert page.post("/view/gallery", content=b'{"a": 1, "a": 2}').status_code == 415
    json_type = {"content-type": "application/json"}
    twice = page.post("/view/gallery", content=b'{"sort": "", "sort": ""}', headers=json_type)
    assert twice.status_code in (400, 422)
    deep = b'{"where": ' * 500 + b"1" + b"}" * 500
    assert page.post("/view/gallery", content=deep, headers=json_type).status_code in (
        400,
        413,
        422,
    )


def test_tiles_show_what_each_kind_of_field_is(page):
    def tile(field, n=3):
        return page.get("/view/tiles", params={"field": field, "n": n}).json()[0]

    assert tile("text")["text"] == "a thing, number 3"
    assert tile("cells")["cells"] == {"age": "3", "kind": "b"} and tile("cells")["more"] == 0
    assert tile("curve")["curves"]["names"] == ["c0", "c1"]
    assert tile("sound")["plays"] and not tile("image")["plays"]
    many = page.get("/view/tiles", params={"field": "image", "n": list(range(24))}).json()
    assert [it["number"] for it in many] == list(range(24)) and "16 x 16 pixels" in many[0]["says"]
    for bad, status in (
        ({"field": "image", "n": list(range(25))}, 422),
        ({"field": "imag", "n": [0]}, 404),
        ({"field": "image", "n": [99]}, 404),
        ({"n": [1]}, 422),
    ):
        assert page.get("/view/tiles", params=bad).status_code == status


def test_thumbnails(page):
    answer = page.get("/view/thumbnail/3/image")
    assert answer.headers["content-type"] == "image/png", "a small picture is exact"
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)
    for bad in ("/view/thumbnail/99/image", "/view/thumbnail/0/imag", "/view/thumbnail/-1/image"):
        assert page.get(bad).status_code == 404
    assert page.get("/view/thumbnail/x/image").status_code == 422


def test_a_large_picture_becomes_small_and_thumbnails_have_a_limit():
    large = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    small = encoded(large)
    assert media_type(small) == "image/jpeg"
    assert Image.open(io.BytesIO(small)).size == (SIDE, SIDE // 3)
    asked = []

    def picture(number, field):
        asked.append(number)
        return large

    thumbnails = Thumbnails(picture, max_bytes=2 * len(small) + 1)
    for number in (0, 1, 0, 2, 0, 1):  # 1 is the one that was asked for longest ago
        thumbnails.get(number, "image")
    assert asked == [0, 1, 2, 1] and thumbnails.size == 2 * len(small)


def test_tags_are_saved_and_survive_a_restart(page, run, model):
    assert page.get("/view/tags").json() == []
    first = page.post("/view/tags", json={"tag": " odd ", "records": [3, 7, 3]})
    assert first.json() == {"changed": 2, "records": 2}
    blue = {"where": {"label:colour": {"any": ["blue"]}}}
    assert page.post("/view/tags", json={"tag": "blue", "query": blue}).json()["changed"] == 12
    assert page.post("/view/tags", json={"tag": "odd", "records": [7, 8]}).json()["changed"] == 1
    assert not list((run / "view").glob(".*draft*"))
    second = app(model)
    second.include_router(router(run, service=second.state.service, dataset=model.read(data())))
    with TestClient(second) as later:
        assert [(t["tag"], t["records"]) for t in later.get("/view/tags").json()] == [
            ("blue", 12),
            ("odd", 3),
        ]
        found = numbers(later, where={"tag": {"any": ["odd"]}})
        assert found == [3, 7, 8]
        rest = numbers(later, where={"tag": {"any": [None]}})
        assert rest == [n for n in range(0, RECORDS, 2) if n != 8]
        removed = later.post("/view/tags", json={"tag": "odd", "remove": True, "records": [3]})
        assert removed.json()["changed"] == 1
    it = page.post("/view/gallery", json={"records": [3, 8]}).json()["records"]
    assert [one["tags"] for one in it] == [["blue"], ["odd"]], "what another page changed is read"
    assert page.request("DELETE", "/view/tags?tag=odd").json()["changed"] == 2
    assert [t["tag"] for t in page.get("/view/tags").json()] == ["blue"]


def test_tags_as_csv(page):
    page.post("/view/tags", json={"tag": "odd", "records": [11, 7]})
    assert page.get("/view/tags.csv?tag=odd").text.split() == ["record", "11", "7"]
    answer = page.post("/view/gallery/csv", json={"records": [7, 0]})
    part = PARTS[data().parts[7]]
    assert list(csv.reader(io.StringIO(answer.text)))[:2] == [
        ["record", "split", "colour", "tag: odd"],
        ["7", part, "blue", "x"],
    ]
    whole = page.post("/view/gallery/csv", json={"query": {"where": {"tag": {"any": ["odd"]}}}})
    assert len(whole.text.splitlines()) == 3
    assert "Did you mean odd?" in page.get("/view/tags.csv?tag=od").json()["error"]


@pytest.mark.parametrize(
    "body, words",
    [
        ({"tag": "", "records": [1]}, "a tag needs a name"),
        ({"tag": "x" * 61, "records": [1]}, "up to 60 characters"),
        ({"tag": "a\nb", "records": [1]}, "one line of text"),
        ({"tag": 3, "records": [1]}, "tag is a text"),
        ({"tag": "a"}, "say which records"),
        ({"tag": "a", "records": [1], "query": {}}, "say which records"),
        ({"tag": "a", "records": [99]}, "there is no record 99"),
        ({"tag": "a", "records": None}, "a list of numbers"),
        ({"tag": "a", "query": {"where": {"x": {"any": []}}}}, "nothing called 'x'"),
        ({"tag": "never", "remove": True, "records": [1]}, "no tag of this run"),
        ({"tags": "a", "records": [1]}, "expected an object"),
    ],
)
def test_a_bad_tag_gets_a_sentence(page, body, words):
    answer = page.post("/view/tags", json=body)
    assert answer.status_code in (404, 422) and words in answer.json()["error"], answer.text
    assert page.get("/view/tags").json() == []


def test_a_tag_is_text_and_never_markup(page):
    nasty = "<img src=x onerror=alert(1)>"
    page.post("/view/tags", json={"tag": nasty, "records": [1]})
    assert page.get("/view/tags").json()[0]["tag"] == nasty
    assert page.get("/view/tags").headers["content-type"].startswith("application/json")


def test_many_tags_and_threads(tmp_path):
    tags = Tags(tmp_path / "view" / "tags.json")
    workers = [threading.Thread(target=tags.add, args=("one", [f"k{i}"])) for i in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Tags(tags.file).keys(["one"])) == 20, "no change is lost"
    for i in range(1, MAX_TAGS):
        tags.add(f"tag {i}", ["k"])
    with pytest.raises(AmodalError, match="there are 100 tags already"):
        tags.add("one more", ["k"])
    assert tags.of("k0") == ["one"] and tags.remove("one") == 20
    tags.add("bytes", ["a\udcff.png"])
    assert Tags(tags.file).keys(["bytes"]) == {"a\udcff.png"}, "names of files may be no UTF-8"


@pytest.mark.parametrize("text", ["", "[]", '{"tags": []}', '{"tags": {"a": "k"}}', '{"tags": '])
def test_damaged_tags_are_not_taken_for_none(tmp_path, text):
    (tmp_path / "tags.json").write_text(text, encoding="utf-8")
    with pytest.raises(AmodalError, match=r"tags\.json does not hold tags .* move it away"):
        Tags(tmp_path / "tags.json")
    assert (tmp_path / "tags.json").read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A run of a table on disk, and its data."""
    folder = tmp_path_factory.mktemp("on disk")
    rng = np.random.default_rng(0)
    lines = ["name,a,b,c,d"]
    lines += [f"n{i}," + ",".join(f"{v:.4f}" for v in rng.normal(size=4)) for i in range(60)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--size", "nano", "--steps", "1", "--batch-size", "8"]
    cli.main(["init", str(folder / "table.csv")])
    cli.main(
        ["pretrain", "vicreg", "--data", str(folder), "--out", str(folder / "runs" / "a")] + options
    )
    return folder, folder / "runs" / "a"


def test_the_command_trains_without_the_tagged_records(on_disk, capsys):
    folder, run = on_disk
    with TestClient(application(run)) as client:
        whole = records.open(folder)
        tagged = [n for n in range(len(whole)) if n % 3 == 0]
        client.post("/view/tags", json={"tag": "every third!", "records": tagged})
        made = client.post("/view/without", json={"tags": ["every third!"]}).json()
        assert made["records"] == len(whole) - len(tagged)
        assert sum(made["left_out"].values()) == len(tagged) and made["note"] == ""
        keys = {client.get(f"/view/record/{n}").json()["key"] for n in tagged}
        for bad, words in (
            ({"tags": ["nobody"]}, "no tag of this run"),
            ({"tags": []}, "at least one"),
            ({"tags": "every third!"}, "tags is a list"),
        ):
            answer = client.post("/view/without", json=bad)
            assert answer.status_code == 422 and words in answer.json()["error"], answer.text
    program, *arguments = shlex.split(made["command"])
    assert program == "amodal" and arguments[:2] == ["pretrain", "--config"]
    cli.main(arguments)
    out = arguments[arguments.index("--out") + 1]
    capsys.readouterr()
    config = json.loads((run.parent / out / "config.json").read_text(encoding="utf-8"))
    before = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["schedule"] == before["schedule"] and config["options"] == before["options"]
    learnt = records.open(config["data"]["path"])
    assert set(learnt.keys) == set(whole.keys) - keys
    part = dict(zip(whole.keys, whole.parts.tolist()))
    assert [part[key] for key in learnt.keys] == learnt.parts.tolist(), "the split is the same"
    assert len(amodal.load(out).index(learnt)) == made["records"]
    with TestClient(application(run)) as client:
        twice = client.post("/view/without", json={"tags": ["every third!"]}).json()
        assert shlex.split(twice["command"])[-1] == f"{out}-2", "a run is never written over"
        everyone = list(range(len(whole)))
        client.post("/view/tags", json={"tag": "all", "records": everyone})
        answer = client.post("/view/without", json={"tags": ["all"]})
        assert answer.status_code == 422 and "none would be left" in answer.json()["error"]


def test_records_in_memory_cannot_be_left_out(page):
    page.post("/view/tags", json={"tag": "odd", "records": [1]})
    answer = page.post("/view/without", json={"tags": ["odd"]})
    assert answer.status_code == 422 and "in memory" in answer.json()["error"]


def test_names_of_folders(tmp_path):
    assert folder_name(["blurred"]) == "blurred"
    names = [folder_name(t) for t in (["a b"], ["a/b"], ["../.."], ["Ж"], ["x" * 60], ["a", "b"])]
    assert len(set(names)) == 6 and all("/" not in n and n.strip(".-") for n in names)
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert unused(tmp_path / "run").name == "run-3" and unused(tmp_path / "new").name == "new"


def test_a_hundred_thousand_records_are_paged_in_no_time(tmp_path):
    """Filters, sorting and tags of all of them; only what stands on a page is read."""
    n = 100_000
    table = {"a": np.arange(n) % 1000, "b": np.random.default_rng(0).normal(size=n)}
    dataset = records.open({"cells": [{"a": float(x)} for x in table["a"]]})
    kinds = np.array([f"kind {i % 7}" for i in range(n)], dtype=object)
    index = Index(tmp_path / "index", fingerprint="x")
    columns = {"cells": Column(torch.randn(n, 2), torch.arange(n))}
    index.add(dataset.keys, Embeddings(columns, n), {"kind": kinds, "b": table["b"]})
    embedding_map = EmbeddingMap(index, tmp_path / "view")
    made = FastAPI()
    add_error_handlers(made)
    value = reader_of(embedding_map, dataset)
    attributes = Attributes(dataset)
    found = RecordFilter(
        embedding_map,
        dataset,
        attributes,
        Tags(tmp_path / "tags.json"),
        MapClusters(embedding_map, attributes),
    )
    gallery.add(made, tmp_path, found, value, Limits(), "clip")
    with TestClient(made) as client:
        numbers(client, sort="data:cells.a")  # it is read once
        began = time.time()
        where = {"data:cells.a": {"least": 500, "most": 501}, "label:kind": {"any": ["kind 3"]}}
        found = numbers(client, where=where, sort="label:b", descending=True)
        assert time.time() - began < 2
        right = [i for i in range(n) if table["a"][i] in (500, 501) and i % 7 == 3]
        right.sort(key=lambda i: -table["b"][i])
        order = {dataset.keys[i]: i for i in range(n)}
        assert [order[embedding_map.keys[i]] for i in found] == right[:48]
        began = time.time()
        all_of = client.post("/view/tags", json={"tag": "all", "query": {}})
        assert all_of.json()["changed"] == n and time.time() - began < 5
        last = client.post("/view/gallery?start=99990", json={"where": {"tag": {"any": ["all"]}}})
        assert last.json()["total"] == n and len(last.json()["records"]) == 10
