"""Records ranked by the volume that all of their fields span with a query, and by a matching head."""

import json

import numpy as np
import pytest
import torch

import amodal
from amodal import cli
from amodal.core import AmodalError, Batch, Column
from amodal.evaluate import embed_records
from amodal.search import Index, by_volume, rerank, search

FIELDS = "abc"


def records(n=30, lacking=()):
    rng = np.random.default_rng(0)
    rows = {f: list(rng.normal(size=(n, 4)).astype(np.float32)) for f in FIELDS}
    for i in lacking:
        rows["b"][i] = None
    return amodal.open(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    data = records(lacking=(3, 7))
    torch.manual_seed(0)
    method = amodal.methods.build("gram", amodal.Encoder(data.fields, size="nano"), width=8)
    index = Index.open(
        tmp_path_factory.mktemp("index"), encoder=method.encoder, fingerprint="f"
    ).update(data)
    return data, method, index


def by_determinant(vectors):
    a = torch.stack([v / v.norm() for v in vectors]).double()
    return float(torch.linalg.det(a @ a.T).clamp_min(0).sqrt())


def test_the_least_volume_is_first_and_records_without_a_field_are_not_ranked(made):
    data, method, index = made
    z = embed_records(method.encoder, data, range(30)).aligned
    hits = by_volume(index, method.encoder, {"a": data.raw(5, "a")}, k=30)
    expected = {}
    for i in range(30):
        if i not in (3, 7):
            parts = [z["a"].values[5]]
            parts += [z[f].values[z[f].rows.tolist().index(i)] for f in "bc"]
            expected[data.keys[i]] = by_determinant(parts)
    assert [h.key for h in hits] == sorted(expected, key=expected.get)
    # the index has vectors of half precision
    assert all(abs(h.score - expected[h.key]) < 5e-3 and h.source == "b + c" for h in hits)


def test_more_parts_of_a_query_are_more_vectors_and_fields_may_be_chosen(made):
    data, method, index = made
    z = embed_records(method.encoder, data, range(30)).aligned
    query = {"a": data.raw(5, "a"), "b": data.raw(6, "b")}
    first = by_volume(index, method.encoder, query, k=1)[0]
    at = data.keys.index(first.key)
    asked = [z["a"].values[5], z["b"].values[z["b"].rows.tolist().index(6)]]
    assert abs(first.score - by_determinant([*asked, z["c"].values[at]])) < 5e-3
    only = by_volume(index, method.encoder, {"a": data.raw(5, "a")}, fields=["a"], k=40)
    assert only[0].key == data.keys[5] and len(only) == 30


def test_what_no_volume_can_answer_is_refused(made):
    data, method, index = made
    ask = {"a": data.raw(5, "a")}
    with pytest.raises(AmodalError, match="nothing is left"):
        by_volume(index, method.encoder, {f: data.raw(5, f) for f in FIELDS})
    with pytest.raises(AmodalError, match="something to look for"):
        by_volume(index, method.encoder, {})
    with pytest.raises(AmodalError, match="k = 0"):
        by_volume(index, method.encoder, ask, k=0)
    with pytest.raises(AmodalError, match="'d'"):
        by_volume(index, method.encoder, ask, fields=["d"])
    with pytest.raises(AmodalError, match="in a folder"):
        by_volume(object(), method.encoder, ask)


def test_a_matching_head_orders_what_was_found(made):
    data, method, index = made
    query = {"a": data.raw(5, "a")}
    hits = search(index, method.encoder, query, k=12, fields=["b", "c"])
    ordered = rerank(hits, method, data, query, k=4)
    wanted = {}
    for hit in hits:
        i = data.keys.index(hit.key)
        columns = {}
        for f in FIELDS:
            value = data.raw(5 if f == "a" else i, f)
            if value is not None:
                modality = data.fields[f]
                columns[f] = Column(modality.collate([modality.decode(value)]), torch.arange(1))
        with torch.no_grad():
            wanted[hit.key] = float(method.eval().match_logits(Batch.of(1, columns)).values[0])
    best = sorted(wanted, key=wanted.get, reverse=True)[:4]
    assert [h.key for h in ordered] == best != [h.key for h in hits[:4]]
    for hit in ordered:
        assert abs(hit.score - 1 / (1 + np.exp(-wanted[hit.key]))) < 1e-4


def test_what_cannot_be_judged_is_refused(made):
    data, method, index = made
    query = {"a": data.raw(5, "a")}
    hits = search(index, method.encoder, query, k=3)
    clip = amodal.methods.build("clip", amodal.Encoder(data.fields, size="nano"))
    with pytest.raises(AmodalError, match="no matching head"):
        rerank(hits, clip, data, query)
    with pytest.raises(AmodalError, match="one raw value"):
        rerank(hits, method, data, {"a": torch.zeros(8)})
    with pytest.raises(AmodalError, match="has no record"):
        rerank(hits, method, records(1), query)


def test_both_are_options_of_search(capsys, tmp_path):
    rng = np.random.default_rng(0)
    rows = {f: list(rng.normal(size=(24, 4)).astype(np.float32)) for f in "ac"}
    rows["words"] = [f"record of number {i}" for i in range(24)]
    run = amodal.pretrain(
        "gram", rows, tmp_path / "run", size="nano", steps=2, batch_size=8, progress=False
    )
    run.index(rows)
    asked = ["search", str(run.path), "--text", "number 7", "--k", "3", "--json"]
    cli.main([*asked, "--volume"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3 and found[0]["source"] == "a + c"
    assert found[0]["score"] <= found[1]["score"] <= found[2]["score"]
    for options in (["--volume", "--like", "x"], ["--rerank", "3", "--ensemble", "x"]):
        with pytest.raises(SystemExit):
            cli.main([*asked, *options])
        assert "leave" in capsys.readouterr().err
