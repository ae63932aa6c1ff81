"""Qdrant as the engine: what the embedded index finds, it finds.

No registry has the server, so this runs in the client's own store, directly and behind a stand-in
that speaks the server's REST. Where a server is running, AMODAL_QDRANT=qdrant://localhost:6333
makes the same tests ask that one.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from uuid import uuid4

import numpy as np
import pytest
import torch

import amodal
from amodal import cli
from amodal.core import AmodalError, Column, Embeddings
from amodal.model import Model
from amodal.search import Index, engine, open_index, search
from amodal.search._qdrant_address import Address
from amodal.search.qdrant import Qdrant
from tests.export.test_weights import CARD
from tests.search.test_index import labels, vectors

pytest.importorskip("qdrant_client")
from tests.search.qdrant_server import Server  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Local mode")
KEYS = [f"k{i}" for i in range(120)]


@pytest.fixture(params=["store", "rest"])
def place(tmp_path, request):
    name = f"test-{uuid4().hex[:8]}"
    if request.param == "store":
        yield f"{os.environ.get('AMODAL_QDRANT') or f'qdrant://{tmp_path}'}/{name}"
        return
    server = Server()
    yield f"{server.address}/{name}"
    server.end()


@pytest.fixture
def both(place, tmp_path):
    """The same records in the embedded index and in Qdrant."""
    e = vectors(120, fields=("image", "text:1/b"))
    return [
        open_index(where, fingerprint="abc").add(KEYS, e, labels(120))
        for where in (str(tmp_path / "index"), place)
    ]


def same(both, query, **options):
    a, b = (index.nearest(query, **options) for index in both)
    np.testing.assert_allclose([h[1] for h in a], [h[1] for h in b], atol=2e-3)
    mine, its = ({h[0]: h for h in found} for found in (a, b))
    assert all(
        h[1] < a[-1][1] + 2e-3 for k in mine.keys() ^ its.keys() for h in [mine.get(k) or its[k]]
    )
    assert all(mine[k][2:] == its[k][2:] for k in mine.keys() & its.keys())
    return b


def test_it_finds_what_the_embedded_index_does(both, place):
    both.append(open_index(place, fingerprint="abc"))
    assert [type(i) for i in both] == [Index, Qdrant, Qdrant]
    g = torch.Generator().manual_seed(5)
    for index in both[1:]:
        assert (
            len(index) == 120
            and sorted(index.keys) == sorted(KEYS)
            and "k7" in index
            and "k120" not in index
        )
        assert index.sources == ["image", "text:1/b"] and "120 records" in repr(index)
        for query in torch.randn(3, 16, generator=g):
            assert len(same([both[0], index], query, k=9)) == 9
            same([both[0], index], query, k=9, fields=["text:1/b"])
            same([both[0], index], query, k=9, unsigned=True)
            assert same(
                [both[0], index], query, k=9, where={"zone": ["arid", "cold"], "height": "10..30"}
            )
            assert same([both[0], index], query, k=9, where={"height": "115.."})
    assert same(both[:2], query, where={"height": 17})[0][0] == "k17"
    assert both[1].nearest(query, where={"height": "900..901"}) == []


def test_it_gives_the_vectors_of_a_record(both):
    for key in KEYS[:20]:
        mine, its = (index.record_vectors(key) for index in both)
        assert mine.keys() == its.keys()
        for field, own in mine.items():
            np.testing.assert_allclose(its[field], own, atol=2e-3)
        torch.testing.assert_close(*(index.vector(key) for index in both), atol=2e-3, rtol=0)
    for index in both:
        with pytest.raises(KeyError):
            index.record_vectors("nobody")


def test_errors_are_those_of_the_embedded_index(both, place, monkeypatch):
    query = torch.ones(16)
    for options in (
        dict(where={"zone": "ardi"}),
        dict(where={"zones": "arid"}),
        dict(where={"height": "tall"}),
        dict(fields=["imgae"]),
        dict(k=0),
    ):
        said = []
        for index in both:
            with pytest.raises(AmodalError) as caught:
                index.nearest(query, **options)
            said.append(str(caught.value))
        assert said[0] == said[1]
    with pytest.raises(AmodalError, match="vectors of 16 dimensions"):
        both[1].nearest(torch.ones(3))
    with pytest.raises(AmodalError, match="function cannot be sent"):
        both[1].nearest(query, where=lambda labels_of: labels_of["height"] == 17)
    with pytest.raises(AmodalError, match="made by another encoder.*another collection"):
        open_index(place, fingerprint="other")
    with pytest.raises(AmodalError, match="no room for the field 'audio'"):
        both[1].add(["x"], Embeddings({"audio": Column(torch.ones(1, 16), torch.arange(1))}, 1))
    with pytest.raises(AmodalError, match="do not go into an index of 16"):
        both[1].add(["x"], Embeddings({"image": Column(torch.ones(1, 5), torch.arange(1))}, 1))
    with pytest.raises(AmodalError, match="nothing in the index"):
        open_index(place + "-empty").nearest(query)
    with pytest.raises(AmodalError, match="127.0.0.1:1/x cannot be used.*Is the server running"):
        open_index("qdrant://127.0.0.1:1/x")
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[qdrant\]'"):
        open_index("qdrant://127.0.0.1:1/x")


def test_a_collection_of_others_is_left_alone(both, place):
    from qdrant_client import models

    client, name = both[1].client, Address.parse(place).collection + "-theirs"
    client.create_collection(
        name, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    )
    client.upsert(name, [models.PointStruct(id=1, vector=[1.0, 2.0])])
    with pytest.raises(AmodalError, match="is not an index of amodal"):
        open_index(place + "-theirs")


def test_a_server_is_asked_for_indices_of_labels_and_sent_the_key(folder, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    server, e = Server(), vectors(30)
    with pytest.warns(UserWarning, match="insecure"):  # the client's own, for a key without TLS
        index = open_index(f"{server.address}/photos?shards=2&replicas=2")
    assert len(index) == 0
    index.add(KEYS[:30], e, labels(30))
    assert server.indexed == {'labels."zone"', 'labels."height"'} and server.keys == {"secret"}
    server.requests.clear()
    assert index.nearest(torch.ones(16), k=3) and server.requests == [
        "POST points count",
        "POST points query batch",
    ]
    server.end()
    with pytest.raises(AmodalError, match="cannot be used.*repeat the command"):
        index.add(KEYS[:30], e, labels(30))


def test_addresses():
    assert Address.parse("qdrant://a.b/c") == Address("http://a.b:6333", "", "c")
    assert Address.parse("qdrants://a:1/c?shards=6&replicas=2") == Address(
        "https://a:1", "", "c", 6, 2
    )
    assert Address.parse("qdrant:///tmp/x/c") == Address("", "/tmp/x", "c")
    for bad, why in (
        ("qdrant://host:6333", "address of a collection"),
        ("milvus://host/c", "address of a collection"),
        ("qdrant://host:x/c", "port"),
        ("qdrant://host/c?shard=3", "Did you mean shards"),
        ("qdrant://host/c?shards=no", "whole number"),
    ):
        with pytest.raises(AmodalError, match=why):
            Address.parse(bad)


def test_replaced_and_deleted_records_are_gone(both):
    new = torch.eye(16)[:1]
    for index in both:
        index.add(
            ["k3"], Embeddings({"image": Column(new, torch.arange(1))}, 1), {"zone": ["arid"]}
        )
        assert len(index) == 120 and index.nearest(new[0], k=1)[0][:1] == ("k3",)
        assert index.delete(["k3", "k5", "nobody"]) == 2 and len(index) == 118 and "k5" not in index
    assert len(same(both, new[0], k=118)) == 118


def test_an_update_embeds_only_what_is_new_and_prunes(folder, place, tmp_path):
    records = amodal.open(folder)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    seen, original = [], encoder.features
    encoder.features = lambda batch: (seen.extend(batch.keys), original(batch))[1]
    index = open_index(place, encoder=encoder, fingerprint="f").update(records)
    assert len(index) == 80 == len(seen) and not index.bad and index.stale == 0
    embedded = open_index(tmp_path / "index", encoder=encoder, fingerprint="f").update(records)
    names = {type(m).__name__: f for f, m in records.fields.items()}
    for where in (None, {next(iter(records.labels)): "red"}):
        a, b = (
            search(i, encoder, {names["Text"]: "a red picture"}, k=20, where=where)
            for i in (index, embedded)
        )
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=2e-3)
    seen.clear()
    assert (
        len(open_index(place, encoder=encoder, fingerprint="f").update(records)) == 80
        and seen == []
    )
    index.add(
        ["ghost"], Embeddings({names["Image"]: Column(torch.ones(1, 16), torch.arange(1))}, 1)
    )
    assert index.update(records).stale == 1 and len(index) == 81
    assert (
        index.update(records, prune=True).stale == 1 and len(index) == 80 and "ghost" not in index
    )


def fill(folder, place, log):
    torch.set_num_threads(1)
    engine.COMMIT_SIZE = 10
    records = amodal.open(folder)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    original = encoder.features

    def features(batch):
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{key}\n" for key in batch.keys)
        if multiprocessing.parent_process() is not None:
            time.sleep(0.15)  # long enough to be killed in
        return original(batch)

    encoder.features = features
    return open_index(place, encoder=encoder, fingerprint="f").update(records)


def test_a_killed_update_goes_on_after_what_was_written(folder, place, tmp_path):
    log = tmp_path / "seen.txt"
    process = multiprocessing.get_context("fork").Process(target=fill, args=(folder, place, log))
    process.start()
    deadline = time.time() + 60
    while (
        (not log.exists() or len(log.read_text(encoding="utf-8").split()) < 30)
        and process.is_alive()
        and time.time() < deadline
    ):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = len(log.read_text(encoding="utf-8").split())
    assert 30 <= before < 80
    stored = len(open_index(place, fingerprint="f"))
    assert 20 <= stored <= before, "all commits but the last were whole"
    index = fill(folder, place, log)
    assert len(index) == 80 and len(log.read_text(encoding="utf-8").split()) - before == 80 - stored


def test_ranks_share_the_records(folder, place, monkeypatch):
    from amodal.train import distributed

    monkeypatch.setattr(engine, "COMMIT_SIZE", 10)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    records = amodal.open(folder)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    sizes, index = [], open_index(place, encoder=encoder)
    for rank in (2, 0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        done = []
        index.update(records, progress=done.append)
        sizes.append(sum(done))
    assert sizes == [20, 30, 30] and len(index) == 80


def test_the_command_line_takes_an_address(folder, place, tmp_path, capsys):
    records = amodal.open(folder)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    config = {"encoder": encoder.spec, **CARD}
    run = Model(encoder, config).save(tmp_path / "run")

    def said(*arguments):
        cli.main([str(a) for a in arguments])
        return capsys.readouterr().out

    assert "80 records in the index. Next" in said("index", run, "--data", folder, "--to", place)
    label = next(iter(records.labels))
    asked = ["search", run, "--text", "a red picture", "--index", place, "--k", "99", "--json"]
    assert len(json.loads(said(*asked))) == 80
    assert {h["labels"][label] for h in json.loads(said(*asked, "--where", f"{label}=red"))} == {
        "red"
    }
    with pytest.raises(SystemExit):
        cli.main(["index", str(run), "--data", str(folder), "--to", "host/photos"])
    assert "qdrant://localhost:6333/photos" in capsys.readouterr().err
