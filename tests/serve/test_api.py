"""The HTTP API as clients use it: the same numbers as the library, in JSON."""

import asyncio
import base64
import json
import shutil

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from starlette.testclient import httpx
from torch.nn.functional import normalize

import amodal
from amodal.core import AmodalError
from amodal.search.query import vector_of
from amodal.serve import Limits, app, serve
from amodal.serve.batcher import Batcher
from amodal.serve.server import read_token
from tests.serve.hostile import scans
from tests.serve.runs import RECORDS, data, png, wav

RECORD = {
    "text": "a thing, number 3",
    "cells": {"age": 3, "kind": "b"},
    "curve": [[0.5, 1.0], [None, 2.0]],
}


def b64(data: bytes) -> dict:
    return {"base64": base64.b64encode(data).decode()}


def test_vectors_are_those_of_the_library(client, model):
    dataset = data()
    ours = model.embed(dataset)
    records = [
        {
            "image": b64(png(i)),
            "sound": b64(wav(i)),
            "text": f"a thing, number {i}",
            "cells": {"age": i, "kind": "ab"[i % 2]},
        }
        | {"curve": dataset.raw(i, "curve"), "visits": dataset.raw(i, "visits")}
        for i in range(5)
    ]
    for space, expected in (("aligned", ours.aligned), ("features", ours.features)):
        answer = client.post(f"/embed?space={space}", json={"records": records}).json()["records"]
        for source in expected.sources:
            theirs = np.array([record[source] for record in answer])
            np.testing.assert_allclose(theirs, expected[source].values[:5].numpy(), atol=1e-5)
    fused = [r["fused"] for r in client.post("/embed", json={"records": records}).json()["records"]]
    np.testing.assert_allclose(fused, ours.aligned.fused().values[:5].numpy(), atol=1e-5)


def test_a_form_is_one_record_and_fields_may_be_absent(client):
    files = {"image": ("../../etc/passwd", png(1)), "sound": ("x.wav", wav(1))}
    form = client.post("/embed", files=files, data={"text": "words", "cells": '{"age": 4}'}).json()[
        "records"
    ]
    same = {
        "image": b64(png(1)),
        "sound": b64(wav(1)),
        "text": "words",
        "cells": {"age": 4},
        "curve": None,
    }
    said = client.post("/embed", json={"records": [same, {"text": "words"}]}).json()["records"]
    assert form[0].keys() == {"image", "sound", "text", "cells", "fused"} and said[1].keys() == {
        "text",
        "fused",
    }
    for source in form[0]:
        np.testing.assert_allclose(form[0][source], said[0][source], atol=1e-5)
    columns = client.post("/embed", files={"curve": ("c.csv", b"c0,c1\n0.5,1\n,2\n")}).json()[
        "records"
    ][0]
    lists = client.post("/embed", json={"records": [RECORD]}).json()["records"][0]
    np.testing.assert_allclose(columns["curve"], lists["curve"], atol=1e-5)


def test_search_is_that_of_the_library(client, model):
    for query in (
        {"text": "a thing, number 7"},
        {"image": png(4)},
        {"text": "a thing", "image": png(2)},
    ):
        expected = model.search(k=6, **query)
        body = {name: b64(v) if isinstance(v, bytes) else v for name, v in query.items()}
        hits = client.post("/search?k=6", json=body).json()["hits"]
        assert [h["key"] for h in hits] == [h.key for h in expected]
        np.testing.assert_allclose(
            [h["score"] for h in hits], [h.score for h in expected], atol=1e-4
        )
    own = client.post("/search?k=1&fields=image", files={"image": png(4)}).json()["hits"][0]
    assert own["key"] == data().keys[4] and own["source"] == "image" and own["score"] > 0.99
    red = client.post("/search?where=colour=red&k=50", json={"text": "a thing"}).json()["hits"]
    assert len(red) == RECORDS // 2 and all(h["labels"]["colour"] == "red" for h in red)
    audio = client.post("/search?k=1&fields=sound", json={"audio": b64(wav(9))}).json()["hits"]
    assert audio[0]["key"] == data().keys[9], "a part may be called by its kind"
    unlike = client.post(
        "/search?k=24&fields=image&weight=image=-1", files={"image": png(4)}
    ).json()["hits"]
    assert unlike[-1]["key"] == own["key"]


def test_a_record_is_a_query_or_a_part_of_one(client, model):
    keys, index = data().keys, model.index(data())
    fused = normalize(model.embed(data()).aligned.fused().values, dim=1)

    def found(path, **body):
        return [h["key"] for h in client.post(path, **body).json()["hits"]]

    def wanted(vector, *left_out, k=5):
        return [
            key for key, *_ in index.nearest(vector, k=k + len(left_out)) if key not in left_out
        ][:k]

    assert found(f"/search?k=5&like={keys[4]}") == wanted(fused[4], keys[4])
    mix = fused[4] - 0.5 * fused[9]
    both = f"/search?k=5&like={keys[4]}&like={keys[9]}&weight=like:{keys[9]}=-0.5"
    assert found(both) == wanted(mix, keys[4], keys[9])
    words = vector_of(model.encoder, "text", "a thing")
    mixed = found(f"/search?k=5&like={keys[4]}&weight=text=0.5", json={"text": "a thing"})
    assert mixed == wanted(fused[4] + 0.5 * words, keys[4])
    for path, status in (
        ("/search?like=nothing", 404),
        (f"/search?like={keys[4]}&weight=like:{keys[5]}=1", 422),
        (f"/search?like={keys[4]}&weight=like:{keys[4]}=0", 422),
        ("/search", 415),
        ("/search?" + "&".join(f"like={i}" for i in range(17)), 422),
    ):
        assert client.post(path).status_code == status, path


def test_predictions_are_those_of_the_library(client, model):
    rows = model.predict(data()).to_pylist()[:4]
    dataset = data()
    records = [
        {
            "image": b64(png(i)),
            "sound": b64(wav(i)),
            "text": dataset.raw(i, "text"),
            "cells": dataset.raw(i, "cells"),
        }
        | {"curve": dataset.raw(i, "curve"), "visits": dataset.raw(i, "visits")}
        for i in range(4)
    ]
    predicted = client.post("/predict", json={"records": records}).json()["records"]
    for row, record in zip(rows, predicted):
        assert record["colour"]["prediction"] == row["colour"]
        assert record["colour"]["probabilities"]["red"] == pytest.approx(
            row["colour=red"], abs=1e-5
        )
    headless = app(amodal.load(model.path.parent / "first"))
    assert TestClient(headless).post("/predict", json={"records": records}).status_code == 404


def test_a_method_saved_whole_predicts_as_in_the_library(tmp_path):
    dataset = data().select(["text", "cells", "curve"])
    how = {"size": "nano", "steps": 1, "batch": 8, "progress": False}
    model = amodal.pretrain("m3col", dataset, tmp_path / "run", options={"label": "colour"}, **how)
    expected = model.predict(dataset).to_pylist()[3]
    record = {name: dataset.raw(3, name) for name in dataset.fields}
    predicted = (
        TestClient(app(model))
        .post("/predict", json={"records": [record, {"text": "a"}]})
        .json()["records"]
    )
    assert predicted[0]["colour"]["probabilities"]["red"] == pytest.approx(
        expected["colour=red"], abs=1e-5
    )
    assert len(predicted) == 2 and "prediction" in predicted[1]["colour"]


def test_records_and_the_index_that_changes(model, tmp_path):
    where = tmp_path / "index"
    client = TestClient(app(model, index=where))
    assert client.get("/records").json() == {"total": 0, "records": []}
    assert "amodal index" in client.post("/search", json={"text": "a"}).json()["error"]
    found = model.index(data(), where)
    page = client.get("/records?start=3&count=2").json()
    assert page["total"] == RECORDS and [r["key"] for r in page["records"]] == found.keys[3:5]
    assert page["records"][0]["fields"] == found.sources and page["records"][0]["labels"] == {
        "colour": "blue"
    }
    assert client.get("/records?where=colour=red").json()["total"] == RECORDS // 2
    assert client.get(f"/records/{found.keys[3]}").json() == page["records"][0]
    found.delete(found.keys[:1])
    assert client.get("/records").json()["total"] == RECORDS - 1
    assert client.get(f"/records/{page['records'][0]['key']}").status_code == 200
    shutil.rmtree(where)
    assert client.get("/records").json()["total"] == 0
    assert client.get("/model").json()["records"] == 0


def test_a_misspelt_parameter_is_refused(client):
    for asked, words in {
        "/records?strat=3": "no parameter of /records is called 'strat'. Did you mean start?",
        "/records?start=3&whre=colour=red": "Did you mean where? There are: count, start, where.",
        "/records?count=nothing&Count=1": "Did you mean count?",
        "/records/a?start=1": "no parameter of /records/ is called 'start'. There are: none.",
        "/model?" + "x" * 1000: "no parameter of /model is called",
    }.items():
        answer = client.get(asked)
        assert answer.status_code == 400 and words in answer.json()["error"]
        assert len(answer.json()["error"]) < 600
    answer = client.post("/search?limit=3&k=3", json={"text": "a"})
    assert answer.status_code == 400 and "There are: fields, k, like" in answer.json()["error"]


def test_an_index_elsewhere_is_searched_and_not_listed(model, tmp_path):
    pytest.importorskip("qdrant_client")
    made = app(model, index=f"qdrant://{tmp_path}/served")
    client = TestClient(made)
    assert client.get("/records").status_code == 409 == client.get("/records/a").status_code
    assert client.post("/search", json={"text": "a"}).status_code == 409, "nothing in it yet"
    made.state.service.index_cache.index.encoder = model.encoder
    made.state.service.index_cache.index.update(data())
    hits = client.post("/search?k=3", json={"text": "a thing, number 7"}).json()["hits"]
    assert [h["key"] for h in hits] == [h.key for h in model.search(text="a thing, number 7", k=3)]


def test_errors_say_what_to_do_and_where(client):
    def said(status, **request):
        answer = client.post(request.pop("to", "/embed"), **request)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    assert "Did you mean text" in said(422, json={"records": [{"txt": "a"}]})
    assert "did you mean kind" in said(422, json={"records": [{"cells": {"knid": "a"}}]})
    assert "names of files are not opened" in said(
        422, json={"records": [{"image": "/etc/passwd"}]}
    )
    assert "names of files are not opened" in said(
        422, json={"records": [{"sound": "/etc/passwd"}]}
    )
    assert "names of files" in said(422, json={"records": [{"image": {"path": "/etc/passwd"}}]})
    assert "expected an object or a list" in said(422, json={"records": [{"cells": "/etc/passwd"}]})
    assert "no picture" in said(422, files={"image": b"/etc/passwd"})
    assert "NaN is no number" in said(
        400, content=b'{"records": [NaN]}', headers={"content-type": "application/json"}
    )
    assert "text/plain" in said(415, content=b"x", headers={"content-type": "text/plain"})
    assert "Did you mean colour" in said(422, to="/search?where=color=red", json={"text": "a"})
    assert "should be NAME=VALUE" in said(422, to="/search?where=colour", json={"text": "a"})
    assert "k:" in said(422, to="/search?k=0", json={"text": "a"})
    assert "records" in said(413, json={"records": [{"text": "a"}] * 65})
    assert client.get("/records/../../etc/passwd").status_code == 404
    assert (
        client.get("/records/%2e%2e%2fetc%2fpasswd").json()["error"]
        == "there is no record '../etc/passwd'"
    )


def test_a_token_guards_everything_but_health_also_what_is_added_later(model):
    made = app(model, token="s3cret", hosts=("localhost",))

    @made.get("/map")
    def points():
        return {"service": made.state.service.model.fingerprint}

    client = TestClient(made, base_url="http://localhost:8000")
    assert client.get("/health").json() == {"status": "ok"}
    right, wrong = {"authorization": "Bearer s3cret"}, {"authorization": "Bearer s3creT"}
    for path in ("/map", "/records", "/metrics", "/docs", "/openapi.json", "/nowhere"):
        assert client.get(path).status_code == client.get(path, headers=wrong).status_code == 401, (
            path
        )
    assert client.get("/map", headers=right).json() == {"service": model.fingerprint}
    other = right | {"host": "evil.example"}
    assert client.get("/map", headers=other).status_code == 400, (
        "a page whose name was pointed here reads nothing"
    )
    for host in ("evil.example@localhost", "localhost/evil.example", "evil.example#@localhost"):
        assert client.get("/map", headers=right | {"host": host}).status_code == 400, host


def test_requests_beyond_the_queue_or_the_time_limit_are_refused(model):
    made = app(model, limits=Limits(concurrent=2, seconds=0.3))

    @made.get("/rest/{seconds}")
    async def rest(seconds: float):
        await asyncio.sleep(seconds)
        return {}

    async def at_once(*paths):
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as many:
            return await asyncio.gather(*(many.get(path) for path in paths))

    responses = asyncio.run(at_once("/rest/0.1", "/rest/5", "/rest/0.1", "/health"))
    assert [a.status_code for a in responses] == [200, 503, 429, 200]
    assert (
        responses[2].headers["retry-after"] == "1" and "at once" not in responses[1].json()["error"]
    )
    assert asyncio.run(at_once("/rest/0"))[0].status_code == 200


def test_what_is_too_large_is_not_read(model):
    client = TestClient(
        app(model, limits=Limits(upload=5000, json=1000, pixels=300, sound=0.4, characters=9))
    )

    def status(**request):
        return client.post("/embed", **request).status_code

    assert (
        status(files={"text": b"12345678"}) == 200
        and status(json={"records": [{"text": "1234567890"}]}) == 413
    )
    assert (
        status(files={"image": png(side=16)}) == 200
        and status(files={"image": png(side=18)}) == 413
    )
    assert (
        status(files={"sound": wav(samples=1000)}) == 200
        and status(files={"sound": wav(samples=4000)}) == 413
    )
    assert status(files={"sound": wav(samples=2000, rate=4000)}) == 413, "seconds count, not bytes"
    assert status(json={"records": [{"cells": {"age": 1, "x": "a" * 1000}}]}) == 413
    assert (
        status(content=b"x", headers={"content-type": "application/json", "x": "y" * 40_000}) == 431
    )


def test_scans_of_a_picture_cost_as_much_as_their_pixels(model):
    picture = scans(None, more=20)
    for pixels, expected in ((64 * 64, 422), (64 * 64 * 4, 200)):
        client = TestClient(app(model, limits=Limits(pixels=pixels)))
        assert client.post("/embed", files={"image": picture}).status_code == expected


def test_metrics_count_routes_and_not_what_clients_make_up(model):
    client = TestClient(app(model))
    client.post("/embed", json={"records": [{"text": "a"}, {"text": "b"}]})
    for i in range(3):
        client.get(f"/made/up/{i}")
        client.request("MADE" + "UP" * i, "/embed")
    text = client.get("/metrics").text
    assert 'amodal_requests_total{method="POST",route="/embed",status="200"} 1.0' in text
    assert 'amodal_requests_total{method="GET",route="none",status="404"} 3.0' in text
    assert 'method="other"' in text and "MADE" not in text and "made" not in text
    assert 'amodal_batch_records_bucket{le="2.0"} 1.0' in text


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert page.status_code == 200 and "POST /embed" in page.text and "POST /predict" in page.text
    assert "http" not in page.text.replace("http-equiv", "") and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_only_safetensors_are_read(model, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(model.path, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.encoder.state_dict(), folder / "model.pt")
    with pytest.raises(AmodalError, match="no model.safetensors"):
        serve(folder)


def test_a_server_for_everyone_must_be_asked_for(model, tmp_path, monkeypatch):
    with pytest.raises(AmodalError, match="--anyone"):
        serve(model.path, host="0.0.0.0")
    file = tmp_path / "token"
    file.write_text(" word\n", encoding="utf-8")
    assert read_token(file) == "word" and read_token(None) == ""
    monkeypatch.setenv("AMODAL_TOKEN", "other")
    assert read_token(None) == "other"
    file.write_text("", encoding="utf-8")
    with pytest.raises(AmodalError, match="is empty"):
        read_token(file)
    with pytest.raises(AmodalError, match="concurrent"):
        Limits(concurrent=0)


def test_requests_that_wait_go_together_and_fail_alone():
    sizes = []

    def run(items):
        if "bad" in items:
            raise ValueError("bad")
        return [i * 2 for i in items]

    async def all_at_once():
        batcher = Batcher(run, max_batch_size=4, on_batch=sizes.append)
        asked = ([1], [2, 3], [4], ["bad"], [5, 6, 7, 8, 9, 10])
        return await asyncio.gather(*map(batcher, asked), return_exceptions=True)

    *good, bad, large = asyncio.run(all_at_once())
    assert (
        good == [[2], [4, 6], [8]]
        and isinstance(bad, ValueError)
        and large == [10, 12, 14, 16, 18, 20]
    )
    assert sizes == [4, 1, 6] or sizes == [1, 3, 1, 6] or sizes[0] == 4


def test_who_gives_up_is_not_computed_for():
    calls = []

    async def one_leaves():
        batcher = Batcher(lambda items: calls.append(list(items)) or items, max_batch_size=1)
        first, second, third = (asyncio.ensure_future(batcher([i])) for i in range(3))
        await asyncio.sleep(0)
        second.cancel()
        return await first, await third

    assert asyncio.run(one_leaves()) == ([0], [2]) and [1] not in calls


def test_json_is_ascii_and_without_nan(client):
    strange = client.post("/embed", content=json.dumps({"records": [{"text\ud800": 1}]}))
    assert strange.status_code == 415
    body = json.dumps({"records": [{"text\ud800": 1}]})
    answer = client.post("/embed", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.text.isascii()
    huge = client.post("/embed", json={"records": [{"curve": [[3e38, -3e38], [3e38, 3e38]]}]})
    assert huge.status_code in (200, 422) and "NaN" not in huge.text
