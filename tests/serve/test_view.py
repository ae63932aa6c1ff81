"""The routes behind the page of `amodal view`."""

import base64
import csv
import io
import itertools
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from torch.nn.functional import normalize

import amodal
from amodal import data as records
from amodal.core import AmodalError, Column, Embeddings
from amodal.data import Dataset
from amodal.data.attributes import Attributes
from amodal.evaluate.protocols.retrieval import ranked
from amodal.evaluate.result import Report, Result
from amodal.search import Index
from amodal.serve import app, runs, serve
from amodal.serve import embedding_map as embedding_map_module
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.map_clusters import MapClusters
from amodal.serve.projection import pca_2d
from amodal.serve.tabs import map as map_tab
from amodal.serve.tabs.compare import comparison_of
from amodal.serve.tabs.map import numbers
from amodal.serve.view import application, router, view
from amodal.studies.comparison import Comparison, Entry
from tests.serve.runs import RECORDS, data, png

torch.set_num_threads(1)
STATIC = Path(amodal.__file__).parent / "serve" / "static"


@pytest.fixture(scope="module")
def page(model):
    made = app(model)
    made.include_router(router(model.path, service=made.state.service, dataset=model.read(data())))
    with TestClient(made) as client:
        yield client


def compared(folder, *, finished=True):
    """The folder of a comparison, without a run."""
    entries = [
        Entry("simple features", "simple", 0.8, 0.05),
        Entry(
            "mae",
            value=0.9,
            half=0.04,
            alone=0.7,
            features="with simple features",
            steps=8,
            state="done" if finished else "running",
            curve=[[4, {"probe": 0.5}], [8, {"probe": 0.6, "other": 0.8}]],
        ),
        Entry("clip", state="failed: it compares fields"),
    ]
    folder.mkdir()
    frozen = {"image": "timm:vit"}
    about = {"data": "photos", "test": 0.88, "summary": "It is good.", "frozen": frozen}
    Comparison("kind (accuracy)", entries, {"tip": "no <table>"}, about).save(folder)
    return folder


def test_a_comparison_is_shown_before_its_winner_is_trained(tmp_path):
    folder = compared(tmp_path / "compared", finished=False)
    with TestClient(application(folder)) as client:
        about = got(client, "/view/about")
        assert about["tabs"] == ["compare"] and about["run"] == "compared"
        found = got(client, "/view/comparison")
        assert found["choice"] == "mae" and not found["finished"] and found["run"] == ""
        assert found["sentence"].startswith("so far: take mae with simple features (0.900): above")
        assert [e["name"] for e in found["entries"]] == ["simple features", "mae", "clip"]
        assert found["entries"][0]["curve"] == [] and found["left_out"] == {"tip": "no <table>"}
        compared(tmp_path / "other")
        shutil.copy(tmp_path / "other" / "comparison.json", folder / "comparison.json")
        now = got(client, "/view/comparison")
        assert not now["finished"], "its winner is not trained yet"
        (folder / "comparison.json").write_text("{}", encoding="utf-8")
        damaged = client.get("/view/comparison")
        assert damaged.status_code == 409 and "is no result of" in damaged.json()["error"]


def test_frozen_encoders_that_are_chosen_are_named_and_no_run_is_praised(tmp_path):
    folder = tmp_path / "compared"
    folder.mkdir()
    entries = [Entry("frozen encoders", "frozen", 0.9, 0.01), Entry("mae", value=0.5, half=0.1)]
    about = {"summary": "It is good.", "frozen": {"image": "timm:vit"}}
    Comparison("kind (accuracy)", entries, {}, about).save(folder)
    with TestClient(application(folder)) as client:
        found = got(client, "/view/comparison")
    assert found["choice"] == "frozen encoders" and found["summary"] == ""
    assert found["frozen"] == {"image": "timm:vit"}


def test_the_winner_of_a_comparison_has_all_tabs(model, tmp_path):
    folder = compared(tmp_path / "compared")
    shutil.copytree(model.path, folder / "run")
    made, run = app(model), folder / "run"
    dataset = model.read(data())
    made.include_router(
        router(run, service=made.state.service, dataset=dataset, comparison=comparison_of(run))
    )
    with TestClient(made) as client:
        tabs = got(client, "/view/about")["tabs"]
        usual = ["map", "gallery", "search", "run", "yardsticks", "records", "fields"]
        assert tabs == ["compare", *usual]
        found = got(client, "/view/comparison")
        assert found["finished"] and found["run"] == str(run) and found["test"] == 0.88
    assert comparison_of(folder) == folder and comparison_of(model.path) is None


PACKED = ("/view/map", "/view/colour")
KINDS = {"numbers": "<u4", "places": "<u4", "x": "<u2", "y": "<u2"}


def unpacked(answer):
    """An answer with lists in place of base64; None for a number that is not known."""
    values = {"values": "<i2" if answer.get("kind") == "classes" else "<f4"}
    for name, kind in (KINDS | values).items():
        if name in answer:
            read = np.frombuffer(base64.b64decode(answer[name], validate=True), kind).tolist()
            answer[name] = [None if v != v else v for v in read]
    return answer


def got(client, path, **asked):
    """The JSON of a route, asked again while it is computed."""
    for _ in range(200):
        answer = client.get(path, params=asked)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return unpacked(answer.json()) if path in PACKED else answer.json()
        time.sleep(0.02)
    raise AssertionError(f"{path} is never done")


@pytest.mark.parametrize("script", sorted(STATIC.glob("*.js")), ids=lambda p: p.name)
def test_the_scripts_of_the_page_can_be_parsed(script):
    if (node := shutil.which("node")) is None:
        pytest.skip("there is no node here")
    check = [node, "--input-type=module", "--check"]
    subprocess.run(check, input=script.read_bytes(), check=True)


def test_the_page_needs_nothing_from_elsewhere(page):
    home = page.get("/")
    assert (
        home.status_code == 200 and "script-src 'self'" in home.headers["content-security-policy"]
    )
    for name in (
        "view.js",
        "view.css",
        "scatter.js",
        "map.js",
        "search.js",
        "run.js",
        "records.js",
        "fields.js",
        "gallery.js",
        "chart.js",
        "legend.js",
        "yardsticks.js",
        "facets.js",
        "tagging.js",
    ):
        text = page.get(f"/view/static/{name}").text
        assert "https://" not in text and "http://" not in text.replace(
            "http://www.w3.org/2000/svg", ""
        )
    for bad in ("..%2fview.py", "nothing.js", "%2e%2e%2f__init__.py"):
        assert page.get(f"/view/static/{bad}").status_code == 404


def test_a_map_of_all_and_of_one_field_is_computed_once(page, model):
    assert page.get("/view/about").json()["records"] == RECORDS
    for field in ("", "image"):
        found = got(page, "/view/map", field=field)
        assert (
            found["numbers"] == list(range(RECORDS))
            and max(found["x"]) == 65535
            and min(found["y"]) == 0
        )
    files = [
        file.name.split("-")[1] for file in (model.path / "view").glob("map-*.npz")
    ]  # by UMAP too where it is installed
    assert len(set(files)) == 2 and not list((model.path / "view").glob(".*draft*"))
    assert page.get("/view/map", params={"field": "imag"}).status_code == 422


def test_a_colour_for_each_record(page):
    numbers = range(RECORDS)
    kinds = ["ab"[i % 2] for i in numbers]
    for by, wanted in (
        ("label:colour", ["red", "blue"] * (RECORDS // 2)),
        ("has:text", ["there"] * RECORDS),
        ("count", ["6 fields"] * RECORDS),
        ("data:cells.kind", kinds),
        ("data:cells.age", [float(i) for i in numbers]),
        ("data:text.length", [float(len(f"a thing, number {i}")) for i in numbers]),
        ("data:sound.seconds", [0.5] * RECORDS),
        ("data:visits.events", [5.0] * RECORDS),
        ("data:curve.steps", [20.0] * RECORDS),
    ):
        found = got(page, "/view/colour", by=by)
        values = (
            found["values"]
            if found["kind"] == "numbers"
            else [found["names"][v] for v in found["values"]]
        )
        assert values == wanted, by
    assert len(got(page, "/view/colour", by="agreement")["values"]) == RECORDS
    curves = got(page, "/view/colour", by="data:curve.mean c0")["values"]
    assert curves[7] == pytest.approx(np.mean(data().raw(7, "curve"), axis=0)[0], abs=1e-4)
    pictures = got(page, "/view/colour", by="data:image.brightness")["values"]
    assert pictures[3] == pytest.approx(np.asarray(Image.open(io.BytesIO(png(3)))).mean(), abs=1e-3)
    assert set(page.get("/view/about").json()["attributes"]) > {
        "cells.age",
        "text.length",
        "image.contrast",
    }
    for bad in ("label:no", "data:no", "no"):
        assert page.get("/view/colour", params={"by": bad}).status_code == 404


def test_clusters_colour_the_map_and_have_names(page, model):
    for field in ("", "cells"):
        found = got(page, "/view/colour", by=f"cluster:{field}")
        sizes = np.bincount(found["values"], minlength=len(found["names"]))
        assert sizes.sum() == RECORDS and (sizes > 0).all()
        assert len(set(found["names"])) == len(found["names"]) and all(found["names"])
    assert page.get("/view/colour", params={"by": "cluster:imag"}).status_code == 422
    assert page.get("/view/about").json()["colour"] == "label:colour"


def test_clusters_are_those_of_the_vectors(tmp_path):
    """Two groups far apart are never one cluster, and each is called by its label."""
    n = 4000  # more than are fitted
    side = np.arange(n) % 2
    z = torch.randn(n, 8) * 0.1 + torch.from_numpy(np.where(side, 5.0, -5.0))[:, None].float()
    rows = torch.tensor([i for i in range(n) if i != 7])
    index = Index(tmp_path / "index", fingerprint="x")
    names = np.array(["left", "right"], dtype=object)[side]
    keys = [f"k{i}" for i in range(n)]
    index.add(keys, Embeddings({"a": Column(z[rows], rows)}, n), {"side": names})
    made = EmbeddingMap(index, tmp_path / "view")
    dataset = records.open({"a": [{"x": 1.0}] * 20})
    found = MapClusters(made, Attributes(dataset)).fitted("a")
    missing = made.number_of.get("k7")
    assert missing is None or found.values[missing] == -1
    for code, name in enumerate(found.names):
        mine = {names[int(made.keys[i][1:])] for i in np.flatnonzero(found.values == code)}
        assert len(mine) == 1 and name.startswith(mine.pop())


def test_a_label_that_most_records_lack_does_not_colour_the_map_unasked():
    def colour(**labels):
        made = SimpleNamespace(labels=labels, drawn=np.arange(10))
        return map_tab.default_colour(made)

    half = np.array(["a", "b", "a", "b"] + [None] * 6, dtype=object)
    whole = np.array(["a", "b"] * 5, dtype=object)
    alone = np.array(["a"] * 10, dtype=object)
    many = np.array([str(i) for i in range(10)] * 5, dtype=object)
    assert colour(half=half) == "cluster" and colour(age=np.arange(10.0)) == "cluster"
    assert colour(alone=alone) == "cluster" and colour(half=half, whole=whole) == "label:whole"
    assert colour(many=many) == "label:many"


def test_columns_that_nobody_described_can_colour_the_map():
    table = {"text": [f"words {i}" for i in range(40)]}
    table |= {
        "price": [float(i) for i in range(39)] + [None],
        "shop": ["north", "south"] * 20,
        "note": ["x" * 50] * 40,
    }
    dataset = records.open(table)
    schema = replace(dataset.schema, fields={"text": dataset.schema.fields["text"]}, labels={})
    attributes = Attributes(Dataset(dataset.reader, schema))
    assert attributes.names == {"text.length": "number", "price": "number", "shop": "classes"}
    assert np.allclose(
        attributes.values("price", ["38", "39", "nobody"]), [38, np.nan, np.nan], equal_nan=True
    )
    assert attributes.values("shop", ["1", "0"]).tolist() == ["south", "north"]
    with pytest.raises(AmodalError, match="Did you mean price"):
        attributes.values("prize", ["1"])


def test_a_few_large_numbers_do_not_take_all_the_colours():
    found = unpacked(numbers(np.array([*range(500), 1e9, np.nan])))
    assert 490 < found["high"] < 510 and found["clipped"] and found["values"][-1] is None
    plain = numbers(np.arange(10.0))
    assert (plain["low"], plain["high"], plain["clipped"]) == (0, 9, False)


def test_a_record_shows_itself_in_every_field(page):
    it = page.get("/view/record/3").json()
    assert (
        it["fields"]["text"]["text"] == "a thing, number 3"
        and it["fields"]["cells"]["cells"]["age"] == "3"
    )
    assert it["labels"] == {"colour": "blue"}
    drawn, dataset = it["fields"]["curve"]["curves"], data()
    mean, std = dataset.fields["curve"].scale()
    raw = np.asarray(dataset.raw(3, "curve"))
    assert drawn["names"] == ["c0", "c1"] and np.allclose(
        drawn["values"], ((raw - mean) / std).T, atol=2e-3
    )
    for field in ("image", "sound", "curve", "visits"):
        picture = Image.open(io.BytesIO(page.get(f"/view/record/3/{field}.png").content))
        assert picture.mode == "RGB"
    samples, rate = soundfile.read(io.BytesIO(page.get("/view/record/3/sound.wav").content))
    assert rate == 8000 and np.abs(samples).max() > 0.05
    for bad in (
        "/view/record/99",
        "/view/record/-1",
        "/view/record/3/none.png",
        "/view/record/3/image.wav",
        "/view/record/-1/image.png",
    ):
        assert page.get(bad).status_code == 404


def asked(page, files=(), **query):
    form = {
        name: (None, value) if isinstance(value, str) else ("x", value)
        for name, value in dict(files).items()
    }
    return page.post("/view/search", files=form | {"asked": (None, json.dumps(query))})


def test_search_by_a_picture_by_words_by_a_record_and_by_a_mix(page, model):
    found = asked(page, {"image": png(5)}).json()
    assert set(found) == {"", *model.fields}
    assert found["image"][0]["number"] == 5 and found["image"][0]["score"] == pytest.approx(
        1, abs=2e-3
    )
    assert asked(page, {"text": "a thing, number 7"}).json()["text"][0]["number"] == 7
    near, far = (
        asked(page, {"image": png(5)}, weights={"image": w}).json()["image"] for w in (1, -1)
    )
    assert far[0]["number"] != 5 and far[0]["score"] < near[0]["score"]
    mixed = asked(page, {"image": png(5), "text": "a thing"}, weights={"text": 0.0}).json()["image"]
    assert [h["number"] for h in mixed] == [h["number"] for h in near]
    column = EmbeddingMap(Index.open(model.path / "index"), model.path / "view").column()
    fused = normalize(column.values, dim=1)
    both = asked(page, records={"4": 1.0, "9": -0.5}).json()
    ranked = Index.open(model.path / "index").nearest(fused[4] - 0.5 * fused[9], k=12)
    assert [(h["key"], h["field"]) for h in both[""]] == [(hit[0], hit[2]) for hit in ranked]


@pytest.mark.parametrize(
    "files, query, status",
    [
        ({}, {}, 422),
        ({"image": b"no picture"}, {}, 422),
        ({"nothing": "x"}, {}, 422),
        ({}, {"records": {"99": 1}}, 404),
        ({}, {"records": {"x": 1}}, 422),
        ({"text": "a"}, {"weights": {"text": 1e9}}, 422),
        ({"text": "a"}, {"weights": [1]}, 422),
        ({}, {"records": {"4": float("nan")}}, 422),
    ],
)
def test_a_query_that_makes_no_field_is_refused(page, files, query, status):
    answer = asked(page, files, **query)
    assert answer.status_code == status and answer.json()["error"]


@pytest.mark.parametrize(
    "path, words",
    [
        ("/view/near/2?k=0", "k: 1 or more is expected, not '0'"),
        ("/view/near/2?k=51", "k: 50 or less is expected, not '51'"),
        ("/view/near/2?k={0}", "k: a whole number is expected, not '{0}'"),
        ("/view/list/near_duplicates?least=x", "least: a number is expected, not 'x'"),
        ("/view/colour", "by: it is needed"),
        ("/view/keys?" + "n=0&" * 301, "n: at most 300 of them are taken"),
        ("/view/map?best=maybe", "best: true or false is expected, not 'maybe'"),
        ("/view/nothing", "there is no page '/view/nothing' here"),
        ("/view/search", "'/view/search' takes no GET"),
    ],
)
def test_mistakes_in_an_address_are_said_in_words(page, path, words):
    answer = page.get(path)
    assert 400 <= answer.status_code < 500 and answer.json() == {"error": words}


def test_neighbours_and_their_probe_change_with_the_fields_that_are_on(page):
    all_on = got(page, "/view/near/2")
    one = got(page, "/view/near/2", on=["text"])
    assert len(all_on) == 8 and 2 not in [h["number"] for h in one]
    assert [h["number"] for h in one] != [h["number"] for h in all_on]
    assert (
        got(page, "/view/probe", label="colour", on=["text"]).get("metric", "accuracy")
        == "accuracy"
    )
    assert page.get("/view/probe", params={"label": "x"}).status_code == 404
    assert page.get("/view/probe", params={"label": "colour", "on": ["x"]}).status_code == 404


def test_retrieval_and_probe_of_the_fields_that_are_on(page):
    rows = got(page, "/view/retrieval", on=["image", "text"])
    assert all({r["source"], r["target"]} == {"image", "text"} for r in rows)
    assert page.get("/view/retrieval", params={"on": "imag"}).status_code == 404
    missing = got(page, "/view/missing", label="colour")
    assert (
        missing["reported"] == []
        and page.get("/view/missing", params={"label": "x"}).status_code == 404
    )


def test_a_selection_is_saved_with_keys_and_labels(page):
    answer = page.post("/view/selection", json=[3, 0])
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["record", "colour"],
        ["3", "blue"],
        ["0", "red"],
    ]
    for bad, status in (([99], 404), (["a"], 422), ({"a": 1}, 422), ([True], 422)):
        assert page.post("/view/selection", json=bad).status_code == status


def test_lists_and_what_is_saved_of_them(page, model):
    (model.path / "quarantine.jsonl").write_text(
        '{"key": "=SUM(1)", "field": "image", "reason": "empty file"}\n{"torn', encoding="utf-8"
    )
    try:
        assert got(page, "/view/list/quarantine")["rows"] == [["=SUM(1)", "image", "empty file"]]
        rows = list(csv.reader(io.StringIO(page.get("/view/csv/quarantine").text)))
        assert rows == [["record", "field", "reason"], ["'=SUM(1)", "image", "empty file"]]
    finally:
        (model.path / "quarantine.jsonl").unlink()
    outliers = got(page, "/view/list/outliers", field="image")
    assert len(outliers["rows"]) == RECORDS and outliers["rows"][0][1] <= outliers["rows"][-1][1]
    assert got(page, "/view/list/near_duplicates", least=1.0)["columns"] == [
        "record",
        "near duplicate",
        "cosine",
    ]
    assert (
        page.get("/view/list/secrets").status_code == 404
        and page.get("/view/list/near_duplicates?least=nan").status_code == 422
    )


def test_a_run_is_followed_step_by_step_and_compared_with_its_neighbours_only(page, model):
    whole = page.get("/view/run").json()
    assert whole["method"] and whole["columns"]["loss"]
    assert page.get("/view/run", params={"since": whole["last"]}).json()["columns"] == {}
    others = page.get("/view/runs").json()
    other = page.get("/view/runs/first").json()
    assert (
        others == ["first"]
        and other["method"] == "clip"
        and other["settings"]["fields"].startswith("image, sound")
    )
    assert page.get("/view/runs/first", params={"since": other["last"]}).json()["columns"] == {}
    for name in ("..", "told", "%2e%2e%2ffirst", "no"):
        assert page.get(f"/view/runs/{name}").status_code == 404


def test_a_run_without_a_model_yet_shows_how_it_trains(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(AmodalError, match="no run folder"):
        application(run)
    run.mkdir()
    (run / "config.json").write_text(
        '{"method": "clip", "status": "running", "schedule": {"steps": 9}}', encoding="utf-8"
    )
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.0, "rank/a": NaN}\n{"step": 2, "lo', encoding="utf-8"
    )
    with TestClient(application(run)) as client:
        assert (
            client.get("/view/about").json()["tabs"] == ["run"]
            and client.get("/view/map").status_code == 404
        )
        assert client.get("/view/run").json()["columns"] == {"loss": [[1, 2.0]]}
        (run / "metrics.jsonl").write_text(
            '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n', encoding="utf-8"
        )
        later = client.get("/view/run", params={"since": 1}).json()
        assert later["last"] == 2 and later["columns"] == {"loss": [[2, 1.5]]}


def test_missing_rows_come_from_the_newest_report(tmp_path):
    row = {"source": "a", "metric": "accuracy", "value": 0.5, "chance": 0.1}
    result = {"protocol": "missing", "spec": {"label": "zone"}, "rows": [row]}
    (tmp_path / "report.json").write_text(
        json.dumps({"about": {}, "results": [result], "skipped": {}}), encoding="utf-8"
    )
    (tmp_path / "other.json").write_text("[1, 2]", encoding="utf-8")
    assert runs.missing_rows(tmp_path) == [{"protocol": "missing_modality", "label": "zone"} | row]


def test_what_was_measured_stands_beside_yardsticks(page, model):
    empty = page.get("/view/yardsticks").json()
    assert empty["file"] == "" and empty["groups"] == []
    words = shlex.split(empty["command"])
    assert words[:3] == ["amodal", "evaluate", str(model.path)] and words[-2] == "--json"
    rows = [
        {"source": "a", "metric": "balanced accuracy", "value": 0.7, "chance": 0.5, "n": 9}
        | {"intervals": {"trained": [0.6, 0.8], "simple": [0.5, 0.9]}},
        {"source": "a", "metric": "Brier", "value": 0.2, "chance": 0.25},
    ]
    simple = [row | {"value": 0.8} for row in rows]
    spec, file = {"label": "<b>zone</b>"}, model.path / "report.json"
    Report(
        [Result("knn", spec, rows)],
        simple=[Result("knn", spec, simple)],
        skipped={"head": "it needs one"},
        about={"data": "photos", "train": 8, "test": 9, "summary": "it is good."},
    ).save(file, figures=False)
    try:
        found = page.get("/view/yardsticks").json()
    finally:
        file.unlink()
    assert found["file"] == "report.json" and not found["old"]
    assert found["columns"] == ["trained", "simple", "chance"]
    assert found["counts"] == {"train": 8, "test": 9} and found["summary"] == "it is good."
    (group,) = found["groups"]
    assert group["title"] == "knn · <b>zone</b>" and len(group["rows"]) + found["others"] == 2
    row = group["rows"][0]
    assert row["values"] == [0.7, 0.8, 0.5] and row["what"] == "a" and not row["lower"]
    assert row["intervals"] == [[0.6, 0.8], [0.5, 0.9], None]
    assert found["skipped"] == {"head": "it needs one"}


def small(tmp_path, n=40, max_drawn=20_000, max_compared=20_000):
    """An index of which field b is field a turned (so neighbours agree), c is chance; record 7 has
    no b; 3 and 30 are the same."""
    torch.manual_seed(0)
    a = torch.randn(n, 8)
    a[30] = a[3]
    turn, _ = torch.linalg.qr(torch.randn(8, 8))
    rows = torch.tensor([i for i in range(n) if i != 7])
    columns = {
        "a": Column(a, torch.arange(n)),
        "b": Column((a @ turn)[rows], rows),
        "c": Column(torch.randn(n, 8), torch.arange(n)),
    }
    index = Index(tmp_path / "index", fingerprint="x")
    labels = {"side": np.where(a[:, 0] > 0, "left", "right").astype(object)}
    keys = [f"k{i}" for i in range(n)]
    index.add(keys, Embeddings(columns, n), labels)
    return (
        index,
        EmbeddingMap(
            index,
            tmp_path / "view",
            test_keys=keys[::2],
            max_drawn=max_drawn,
            max_compared=max_compared,
        ),
        a,
    )


def test_an_atlas_numbers_the_living_and_finds_twins_and_neighbours(tmp_path):
    index, _, a = small(tmp_path)
    index.delete(["k0", "k5"])
    embedding_map = EmbeddingMap(index, tmp_path / "view")
    assert (
        embedding_map.keys[0] == "k1"
        and len(embedding_map.keys) == 38
        and not embedding_map.present("b")[embedding_map.number_of["k7"]]
    )
    unit = normalize(a, dim=1)
    near = [
        embedding_map.keys[n]
        for n, _ in embedding_map.similar_to(embedding_map.number_of["k9"], ["a"], 3)
    ]
    living = [i for i in range(40) if i not in (0, 5, 9)]
    assert near == [f"k{i}" for i in sorted(living, key=lambda i: -float(unit[i] @ unit[9]))[:3]]
    x, y, cosine = embedding_map.near_duplicates("a", 0.999)[0]
    assert {embedding_map.keys[x], embedding_map.keys[y]} == {
        "k3",
        "k30",
    } and cosine == pytest.approx(1, abs=1e-3)
    assert len(embedding_map.near_duplicates("a", 0.999)) == 1
    assert embedding_map.similar_to(embedding_map.number_of["k7"], ["b"], 3) == []


def test_agreement_is_the_shared_neighbours_of_each_pair_of_fields(tmp_path):
    _, embedding_map, _ = small(tmp_path)
    found = embedding_map.agreement()

    def near(field, i, rows):
        column = embedding_map.column([field])
        unit = {int(r): normalize(v, dim=0) for r, v in zip(column.rows, column.values)}
        return set(
            sorted((j for j in rows if j != i), key=lambda j: -float(unit[i] @ unit[j]))[:10]
        )

    everyone, with_b = range(40), [i for i in range(40) if i != 7]
    for i in (7, 12):
        pairs = [("a", "c", everyone)] + (
            [] if i == 7 else [("a", "b", with_b), ("b", "c", with_b)]
        )
        expected = np.mean([len(near(s, i, rows) & near(t, i, rows)) / 10 for s, t, rows in pairs])
        assert found[i] == pytest.approx(
            expected, abs=0.07
        )  # half precision may swap the tenth and the eleventh
    assert np.array_equal(found, embedding_map.agreement())  # the second time from disk


def test_of_many_records_some_are_drawn_and_always_the_same(tmp_path):
    index, embedding_map, _ = small(tmp_path, max_drawn=10)
    numbers, flat = embedding_map.layout("b")
    assert len(embedding_map.drawn) == 10 and len(numbers) <= 10 and flat.shape == (len(numbers), 2)
    assert np.array_equal(
        embedding_map.drawn, EmbeddingMap(index, tmp_path / "view", max_drawn=10).drawn
    )
    assert np.isnan(embedding_map.agreement()).sum() == 30


def test_of_the_drawn_some_are_compared_and_umap_places_the_others(tmp_path, monkeypatch):
    _, embedding_map, a = small(tmp_path, n=200, max_compared=60)
    assert len(embedding_map.drawn) == 200 and len(embedding_map.compared) == 60
    asked = []

    def projected(x, projection):
        asked.append(len(x))
        return x[:, :2].numpy()

    monkeypatch.setattr(embedding_map_module, "project_2d", projected)
    numbers, flat = embedding_map.layout("a", "umap")
    assert asked == [60] and numbers.tolist() == list(range(200))
    unit, compared = normalize(a, dim=1), embedding_map.compared
    for i in range(200):
        near = [i] if i in compared else sorted(compared, key=lambda j: -float(unit[i] @ unit[j]))
        expected = unit[near[:3], :2].mean(0)
        torch.testing.assert_close(torch.from_numpy(flat[i]), expected, atol=2e-3, rtol=0)
    assert len(embedding_map.layout("a", "pca")[1]) == 200 and asked == [60, 200]
    assert np.isnan(embedding_map.agreement()).sum() == 140
    numbered = {n for n, _ in embedding_map.outliers("a")}
    assert len(numbered) == 60 and numbered == set(compared.tolist())


def test_a_record_that_is_not_drawn_is_found_by_its_nearest_that_is(tmp_path):
    index, embedding_map, a = small(tmp_path, max_drawn=10)
    unit, shown = normalize(a, dim=1), embedding_map.drawn.tolist()
    for number in range(40):
        wanted = (
            number if number in shown else max(shown, key=lambda i: float(unit[i] @ unit[number]))
        )
        assert embedding_map.nearest_drawn(number, "a") == wanted
    assert embedding_map.nearest_drawn(7, "b") == -1
    hidden = next(i for i in range(40) if i not in shown)
    assert embedding_map.near(a[hidden], ["a"], 1)[0][0] == hidden, "search sees all"
    router_of = FastAPI()
    attributes = Attributes(records.open({"text": ["a"]}))
    map_tab.add(router_of, embedding_map, attributes, MapClusters(embedding_map, attributes))
    client = TestClient(router_of)
    found = got(client, "/view/map", field="a")
    assert (
        found["of"] == 40
        and len(found["x"]) == 10
        and found["numbers"] == [shown[p] for p in found["places"]]
    )
    assert len(got(client, "/view/colour", by="label:side")["values"]) == 10
    assert got(client, f"/view/place/{hidden}", field="a")["number"] == embedding_map.nearest_drawn(
        hidden, "a"
    )


def test_an_index_too_large_for_exact_search_is_searched_exactly_all_the_same(tmp_path):
    index, embedding_map, a = small(tmp_path)
    query = a[3] + 0.3 * a[11]
    wanted = embedding_map.near(query, (), 6, exclude=3)
    index.threshold = 10
    found = embedding_map.near(query, (), 6, exclude=3)
    assert [(n, s) for n, _, s in found] == [(n, s) for n, _, s in wanted]
    assert [v for _, v, _ in found] == pytest.approx([v for _, v, _ in wanted], abs=2e-3)


def test_retrieval_is_that_of_the_protocol_and_sees_equal_records(tmp_path):
    _, embedding_map, _ = small(tmp_path)
    rows = embedding_map.retrieval(("a", "b", "c"), k=3)
    asked = np.flatnonzero(embedding_map.is_test)
    pair = Embeddings({s: embedding_map.column([s], asked) for s in "ab"}, 40).pair("a", "b")
    wanted = ranked(*pair, recall_at=(3,))[0]
    mine = next(r for r in rows if (r["source"], r["target"]) == ("a", "b"))
    assert mine["value"] == pytest.approx(wanted["value"], abs=0.06) and mine["n"] == len(pair[0])
    assert {(r["source"], r["target"]) for r in rows} == {
        *itertools.permutations("abc", 2),
        *(("", t) for t in "abc"),
    }
    assert [r["source"] for r in embedding_map.missing("side")][:2] == ["a + b + c", "a + b"]
    assert len(embedding_map.missing("side")) == 7 and embedding_map.missing("side")[-3] == {
        "source": "a",
        "label": "side",
    } | embedding_map.probe(("a",), "side")


def test_a_probe_learns_from_what_it_is_not_tested_on(tmp_path):
    _, embedding_map, _ = small(tmp_path)
    result = embedding_map.probe(("a",), "side")
    assert result["metric"] == "accuracy" and result["n"] == 20
    with pytest.raises(AmodalError, match="sid"):
        embedding_map.probe(("a",), "sid")


def test_principal_components_are_those_of_the_singular_vectors():
    torch.manual_seed(0)
    x = torch.randn(50, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3, 0.1])
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    assert torch.allclose(pca_2d(x).abs(), (u[:, :2] * s[:2]).abs(), atol=1e-4)
    assert pca_2d(torch.randn(5, 1)).shape == (5, 2)


def test_umap_draws_the_map_where_it_is_installed(monkeypatch, tmp_path):
    import importlib.machinery
    import types

    class UMAP:
        def __init__(self, **options):
            assert options["metric"] == "cosine" and options["random_state"] is not None

        def fit_transform(self, x):
            return x[:, 2:4]

    fake = types.ModuleType("umap")
    fake.UMAP, fake.__spec__ = UMAP, importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", fake)
    _, embedding_map, a = small(tmp_path, n=60)
    drawn = normalize(a, dim=1)[:, 2:4]
    expected = (drawn - drawn.amin(0)) / (drawn.amax(0) - drawn.amin(0))
    assert np.allclose(embedding_map.layout("a")[1], expected, atol=2e-3)
    assert not np.allclose(embedding_map.layout("a", "pca")[1], expected, atol=2e-3)
    made, slow = FastAPI(), threading.Event()
    layout = embedding_map.layout
    monkeypatch.setattr(
        embedding_map,
        "layout",
        lambda field, projection: (
            layout(field, projection) if projection == "pca" or slow.wait(20) else None
        ),
    )
    attributes = Attributes(records.open({"text": ["a"]}))
    map_tab.add(made, embedding_map, attributes, MapClusters(embedding_map, attributes))
    client = TestClient(made)
    first = got(client, "/view/map", field="a")
    assert (first["projection"], first["final"]) == ("pca", False), "what is quick comes first"
    assert client.get("/view/map", params={"field": "a", "best": True}).status_code == 202
    slow.set()
    best = got(client, "/view/map", field="a", best=True)
    assert best["final"] and np.allclose(np.array(best["x"]) / 65535, expected[:, 0], atol=2e-3)
    assert list((tmp_path / "view").glob("map-*umap*"))


def test_a_folder_that_is_no_run_and_a_port_that_is_taken_say_what_to_do(model, tmp_path):
    with pytest.raises(AmodalError, match="Did you mean first"):
        application(model.path.parent / "frist")
    with pytest.raises(AmodalError, match=r"no run folder\. It holds some, such as .*first"):
        application(model.path.parent)
    with pytest.raises(AmodalError, match="amodal pretrain"):
        application(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AmodalError, match=f"cannot listen on port {port}.*--port"):
            view(model.path, port=port)
        with pytest.raises(AmodalError, match=f"cannot listen on port {port}"):
            serve(model.path, port=port)
    with pytest.raises(AmodalError, match="a port is a number"):
        view(model.path, port=70000)


def test_values_that_could_not_be_read_for_the_page_are_in_the_list(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(12):
        (folder / f"r{i}.png").write_bytes(png(i))
        (folder / f"r{i}.txt").write_text(f"thing {i}", encoding="utf-8")
    run = tmp_path / "run"
    amodal.pretrain("clip", folder, run, size="nano", steps=1, batch=4, progress=False)
    (folder / "r5.png").write_bytes(png(5)[:60])
    for _ in range(2):  # the second time, nothing is read again
        with TestClient(application(run)) as client:
            rows = got(client, "/view/list/quarantine")["rows"]
            assert [row[:2] for row in rows] == [["r5", "image"]] and "picture" in rows[0][2]
            assert got(client, "/view/near/3")


def test_the_data_of_a_run_that_have_moved_are_asked_for(model):
    run = model.path.parent / "first"
    config = (run / "config.json").read_text(encoding="utf-8")
    try:
        (run / "config.json").write_text(
            json.dumps(json.loads(config) | {"data": {"path": "/nowhere/at/all"}}), encoding="utf-8"
        )
        with pytest.raises(AmodalError, match="--data DIR"):
            application(run)
    finally:
        (run / "config.json").write_text(config, encoding="utf-8")


def test_the_router_stands_in_any_application(model):
    made = FastAPI()
    made.include_router(router(model.path))
    with TestClient(made) as client:
        assert client.get("/view/about").json()["tabs"] == ["run"]


SLOW_MAP = """
import signal, sys, time
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs behind it
torch.set_num_threads(1)
from amodal.cli import main
from amodal.serve import embedding_map
embedding_map.project_2d = lambda *_: time.sleep(300)
main(["view", sys.argv[1], "--data", sys.argv[2], "--port", "0"])
"""


def test_ctrl_c_does_not_wait_for_a_map(tmp_path):
    table = {"x": [{"a": float(i), "b": i % 3} for i in range(40)]}
    dataset = records.open(table, fields={"x": "table"})
    dataset.to_pandas().to_csv(tmp_path / "t.csv", index=False)
    amodal.pretrain("simclr", tmp_path / "t.csv", tmp_path / "run", size="nano", steps=1)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MAP, str(tmp_path / "run"), str(tmp_path / "t.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = process.stdout.readline().split()[0]
    assert httpx.get(f"{address}view/about").status_code == 200
    assert httpx.get(f"{address}view/map").status_code == 202, "the map is being computed"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip().endswith("interrupted")
