"""Several vectors of each value: MaxSim is what a loop says, in both engines, after kills, updates
and loading from disk."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import amodal
from amodal import cli
from amodal.core import AmodalError, Column, Embeddings, Ragged
from amodal.search import Index, open_index
from amodal.search import _maxsim as maxsim
from tests.search.test_index import killed, labels

N, WIDTH = 90, 16
KEYS = [f"k{i}" for i in range(N)]


def lists(n=N, seed=0, width=WIDTH):
    """Tokens of pictures and of what is said, of some records none, and one vector of a title."""
    g = torch.Generator().manual_seed(seed)
    columns = {}
    for step, source in ((1, "image"), (2, "said")):
        lengths = torch.randint(0 if step == 1 else 1, 7, (len(range(0, n, step)),), generator=g)
        flat = torch.randn(int(lengths.sum()), width, generator=g)
        columns[source] = Column(Ragged(flat, lengths), torch.arange(0, n, step))
    columns["title"] = Column(
        torch.randn(len(range(0, n, 3)), width, generator=g), torch.arange(0, n, 3)
    )
    return Embeddings(columns, n)


def reference(
    e, query_LD, k, fields=("image", "said", "title"), rows=None, weights=None, unsigned=False
):
    """The same by loops: (key, score, source)."""
    weights = torch.ones(len(query_LD)) if weights is None else weights
    found = []
    for i in range(e.size) if rows is None else rows:
        own = {}
        for s in fields:
            at = (e[s].rows == i).nonzero().flatten()
            if len(at):
                values = e[s].values
                values = values.split()[int(at)] if isinstance(values, Ragged) else values[at]
                if len(values):
                    own[s] = normalize(values, dim=1).half().float()
        if not own:
            continue
        total, each = 0.0, dict.fromkeys(own, 0.0)
        for q, w in zip(normalize(query_LD, dim=1), weights / weights.sum()):
            best = {s: float(((v @ q).abs() if unsigned else v @ q).max()) for s, v in own.items()}
            total += float(w) * max(best.values())
            each = {s: each[s] + float(w) * best[s] for s in own}
        found.append((KEYS[i], total, max(each, key=each.get)))
    return sorted(found, key=lambda f: -f[1])[:k]


def agrees(hits, expected):
    assert [f[0] for f in hits] == [e[0] for e in expected] and [f[2] for f in hits] == [
        e[2] for e in expected
    ]
    np.testing.assert_allclose([f[1] for f in hits], [e[1] for e in expected], atol=1e-5)


@pytest.fixture
def filled(tmp_path):
    e = lists()
    return Index.open(tmp_path / "index", fingerprint="abc").add(KEYS, e, labels(N)), e


@pytest.mark.parametrize("tile", [1, 7, maxsim.TILE])
@pytest.mark.parametrize("vectors", [1, 5])
def test_scores_are_those_of_a_slow_loop(filled, tile, vectors, monkeypatch):
    index, e = filled
    whole = maxsim.tiles
    monkeypatch.setattr(maxsim, "tiles", lambda fields, records, _: whole(fields, records, tile))
    query = torch.randn(vectors, WIDTH, generator=torch.Generator().manual_seed(5))
    weights = torch.arange(1.0, vectors + 1)
    arid = np.arange(0, N, 4)
    for made in (index, Index.open(index.path, fingerprint="abc")):
        assert (
            made.is_multi_vector("image") and not made.is_multi_vector("title") and len(made) == N
        )
        agrees(made.nearest(query, k=9), reference(e, query, 9))
        agrees(made.nearest(query, k=9, weights=weights), reference(e, query, 9, weights=weights))
        agrees(made.nearest(query, k=9, unsigned=True), reference(e, query, 9, unsigned=True))
        agrees(made.nearest(query, k=9, fields=["said"]), reference(e, query, 9, ["said"]))
        agrees(made.nearest(query, k=9, fields=["title"]), reference(e, query, 9, ["title"]))
        agrees(
            made.nearest(query, k=9, fields=["image", "title"]),
            reference(e, query, 9, ["image", "title"]),
        )
        agrees(made.nearest(query, k=9, where={"zone": "arid"}), reference(e, query, 9, rows=arid))
    assert len(index.nearest(query, k=500)) == len(reference(e, query, 500)), (
        "records without a vector are not found"
    )


def test_memory_is_that_of_a_tile():
    values = np.zeros((5000, 4), np.float16)
    one = maxsim.Lists(values, np.arange(500), np.full(500, 10))
    seen = []
    original = maxsim.products
    try:
        maxsim.products = lambda part, *rest: (seen.append(len(part)), original(part, *rest))[1]
        maxsim.top_records([one], np.ones((2, 4), np.float32), 3, np.ones(500, bool), tile=100)
    finally:
        maxsim.products = original
    assert sum(seen) == 5000 and max(seen) <= 110


def test_a_part_is_its_position_or_the_number_it_was_stored_under(tmp_path):
    flat = torch.eye(WIDTH)[:5]
    e = Embeddings({"image": Column(Ragged(flat, torch.tensor([2, 3])), torch.arange(2))}, 2)
    index = Index.open(tmp_path / "a").add(["x", "y"], e)
    assert [index.nearest(q, k=1)[0][::4] for q in flat] == [
        ("x", 0),
        ("x", 1),
        ("y", 0),
        ("y", 1),
        ("y", 2),
    ]
    assert index.nearest(flat[:2], k=1)[0][4] == -1, "no one part is what several vectors found"
    index = Index.open(tmp_path / "b")
    with index.writing():
        index._put(["x", "y"], e, ["", ""], [{}, {}], {"image": torch.tensor([0, 7, 0, 2, 9])})
    assert [Index.open(tmp_path / "b").nearest(q, k=1)[0][4] for q in flat] == [0, 7, 0, 2, 9]


def test_replace_delete_and_tidy(filled):
    index, e = filled
    new = torch.eye(WIDTH)[:3]
    index.add(
        ["k4"], Embeddings({"image": Column(Ragged(new, torch.tensor([3])), torch.arange(1))}, 1)
    )
    assert index.nearest(new, k=1)[0][0] == "k4" and index.nearest(new, k=1)[0][1] > 0.999
    index.delete([f"k{i}" for i in range(40)])
    rest = range(40, N)
    for query in (new, new[:1]):
        agrees(index.nearest(query, k=9), reference(e, query, 9, rows=rest))
    for _ in range(8):  # until the dead are cleared out
        index.add(
            KEYS[40:], Embeddings({s: c.between(40, N) for s, c in e.columns.items()}, N - 40)
        )
    assert index.log.generation >= 1
    for made in (index, Index.open(index.path)):
        agrees(made.nearest(new, k=9), reference(e, new, 9, rows=rest))
    assert not list(index.path.glob("*.0.*"))
    rows = index.mean_vectors("said")[1]
    assert len(np.unique(rows)) == len(rows) and np.allclose(
        np.linalg.norm(index.mean_vectors("said")[0], axis=1), 1, atol=1e-2
    )


def test_single_and_multi_vectors_are_not_mixed(filled):
    index, _ = filled
    with pytest.raises(
        AmodalError, match="a image has a list of vectors in this index and one here"
    ):
        index.add(["x"], Embeddings({"image": Column(torch.ones(1, WIDTH), torch.arange(1))}, 1))
    with pytest.raises(AmodalError, match="a title has one vector in this index and a list here"):
        e = Embeddings(
            {"title": Column(Ragged(torch.ones(2, WIDTH), torch.tensor([2])), torch.arange(1))}, 1
        )
        index.add(["x"], e)
    with pytest.raises(AmodalError, match="vectors of 16 dimensions"):
        index.nearest(torch.ones(3, 5))
    with pytest.raises(AmodalError, match="weights above 0"):
        index.nearest(torch.ones(2, WIDTH), weights=torch.tensor([1.0, -1.0]))


def write_for_ever(path, first):
    index = Index.open(path)
    for i in range(first, first + 100000):
        index.add([f"{i}-{j}" for j in range(20)], lists(20, i), {"turn": np.full(20, float(i))})


def test_a_killed_writer_leaves_what_it_had_committed(tmp_path):
    for turn in range(5):
        index = killed(write_for_ever, tmp_path, 1000 * turn, 0.004 * turn)
        for i in (0, max(int(k.split("-")[0]) for k in index.keys)):
            own = lists(20, i)["said"].values.split()[3]
            hit = index.nearest(own, k=1, fields=["said"])[0]
            assert hit[0] == f"{i}-6" and hit[1] > 0.999


def test_a_torn_tail_is_not_seen_and_is_written_over(filled):
    index, e = filled
    for name in ("image.0.f16", "image.0.rows", "image.0.lengths", "image.0.parts"):
        with (index.path / name).open("ab") as file:
            file.write(b"\x07" * 33)
    query = torch.eye(WIDTH)[:2]
    agrees(Index.open(index.path).nearest(query, k=5), reference(e, query, 5))
    reopened = Index.open(index.path).add(
        ["new"], Embeddings({"image": Column(Ragged(query, torch.tensor([2])), torch.arange(1))}, 1)
    )
    assert (
        reopened.nearest(query, k=1)[0][0]
        == "new"
        == Index.open(index.path).nearest(query, k=1)[0][0]
    )
    (index.path / "image.0.lengths").write_bytes(b"\x01" * 8 * (N + 1))
    with pytest.raises(AmodalError, match="image.0.lengths is damaged.*index anew"):
        Index.open(index.path).nearest(query)


@pytest.fixture(params=["store", "rest"])
def place(tmp_path, request):
    pytest.importorskip("qdrant_client")
    from tests.search.qdrant_server import Server

    if request.param == "store":
        yield f"qdrant://{tmp_path}/several"
        return
    server = Server()
    yield f"{server.address}/several"
    server.end()


@pytest.mark.filterwarnings("ignore:Local mode")
def test_qdrant_finds_what_the_embedded_index_does(filled, place):
    index, e = filled
    far = open_index(place, fingerprint="abc").add(KEYS, e, labels(N))
    assert (
        far.is_multi_vector("image")
        and far.is_multi_vector("said")
        and not far.is_multi_vector("title")
    )
    g = torch.Generator().manual_seed(6)
    for made in (far, open_index(place, fingerprint="abc")):
        for query in (torch.randn(1, WIDTH, generator=g), torch.randn(4, WIDTH, generator=g)):
            for options in (
                {},
                {"fields": ["said"]},
                {"fields": ["title"]},
                {"fields": ["image", "title"]},
                {"where": {"zone": ["arid", "cold"]}},
                {"weights": torch.rand(len(query), generator=g) + 0.1},
                *([{"unsigned": True}] if len(query) == 1 else []),
            ):
                a, b = (one.nearest(query, k=8, **options) for one in (index, made))
                np.testing.assert_allclose([h[1] for h in a], [h[1] for h in b], atol=2e-3)
                assert [h[0] for h in a] == [h[0] for h in b] or min(
                    -np.diff([h[1] for h in a])
                ) < 2e-3
                mine, its = ({h[0]: h for h in found} for found in (a, b))
                assert all(mine[k][2:] == its[k][2:] for k in mine.keys() & its.keys())
    assert far.delete(["k4"]) == 1 and "k4" not in {h[0] for h in far.nearest(query, k=N)}
    with pytest.raises(AmodalError, match="cannot be ranked by |cosine|"):
        far.nearest(query, unsigned=True)


# From a run on disk


@pytest.fixture(scope="module", params=["clamr", "sorce"])
def run(request, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    amodal.pretrain(request.param, folder, out, size="nano", steps=4, batch=16, progress=False)
    return out


def test_a_run_is_indexed_and_searched_by_parts(run, folder, tmp_path, capsys):
    root = tmp_path / "photos"
    shutil.copytree(folder, root)
    cli.main(["index", str(run), "--data", str(root), "--out", str(tmp_path / "index")])
    capsys.readouterr()
    search = [
        "search",
        str(run),
        "--text",
        "a red picture",
        "--index",
        str(tmp_path / "index"),
        "--k",
        "3",
    ]
    cli.main([*search, "--fields", "image", "--json"])
    hits = json.loads(capsys.readouterr().out)
    model = amodal.load(run)
    index = open_index(tmp_path / "index", encoder=model.encoder, fingerprint=model.fingerprint)
    tokens = model.encoder.multi_vector.kind == "tokens"
    assert index.is_multi_vector("image") and index.sources == (
        ["image"] if tokens else ["image", "text"]
    )
    assert len(hits) == 3 and all(h["source"] == "image" for h in hits)
    regions = ("whole", *(f"row {i} of 2, column {j} of 2" for i in (1, 2) for j in (1, 2)))
    assert all(h["part"] == "" if tokens else h["part"] in regions for h in hits)
    # what the index says is what the network says: late interaction of all pictures with the query
    from amodal.inference.embed import embed_multi_vector, embed_queries
    from amodal.objectives.late_interaction import late_interaction

    records = model.read(root)
    keys, z, _, _ = embed_multi_vector(model.encoder, records, range(len(records)))
    asked = embed_queries(model.encoder, "text", ["a red picture"])
    parts = Ragged(z["image"].values.flat.float(), z["image"].values.lengths)
    score = late_interaction(asked, parts)[0] / len(asked.flat)
    best = score.argsort(descending=True)[:3]
    assert [h["key"] for h in hits] == [keys[int(z["image"].rows[i])] for i in best]
    np.testing.assert_allclose([h["score"] for h in hits], score[best].numpy(), atol=1e-3)
    cli.main([*search, "--fields", "image"])
    assert "image" in capsys.readouterr().out


def test_an_update_embeds_only_what_is_new(run, folder, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(folder, root)
    model, seen = amodal.load(run), []
    spoken = model.encoder.multi_vector.of_records
    index = model.index(root, tmp_path / "index")
    interaction = type(model.encoder.multi_vector)
    original = interaction.of_records
    try:
        interaction.of_records = lambda self, encoder, batch: (
            seen.extend(batch.keys),
            original(self, encoder, batch),
        )[1]
        assert (
            spoken is not None
            and len(model.index(root, tmp_path / "index")) == len(index)
            and not seen
        )
        shutil.copy(sorted(root.rglob("*.png"))[1], root / "red" / "new.png")
        assert len(model.index(root, tmp_path / "index")) == len(index) + 1 and len(seen) == 1
    finally:
        interaction.of_records = original
    loaded = amodal.load(model.save(tmp_path / "copy"))
    assert loaded.encoder.multi_vector.spec == model.encoder.multi_vector.spec
    before, after = (m.search(text="red", index=tmp_path / "index", k=4) for m in (model, loaded))
    assert before == after


def test_weights_of_parts(run, folder, tmp_path):
    model = amodal.load(run)
    index = model.index(folder, tmp_path / "index")
    from amodal.search import search

    hits = search(
        index,
        model.encoder,
        {"text": "red", "image": str(sorted(folder.rglob("*.png"))[0])},
        weights={"text": 1e-6},
        k=2,
    )
    assert hits[0].score > 0.99, "a picture finds itself"
    if model.encoder.multi_vector.queries_are_lists:
        with pytest.raises(AmodalError, match="weights must be above 0"):
            search(index, model.encoder, {"text": "red"}, weights={"text": -1})


def test_a_server_asks_as_the_library_does(run, folder, tmp_path):
    from fastapi.testclient import TestClient

    from amodal.serve import app

    model = amodal.load(run)
    model.index(folder, tmp_path / "index")
    with TestClient(app(model, index=tmp_path / "index")) as client:
        hits = client.post("/search?k=4&fields=image", json={"text": "a red picture"}).json()[
            "hits"
        ]
    ours = model.search(text="a red picture", index=tmp_path / "index", k=4, fields=["image"])
    assert [h["key"] for h in hits] == [h.key for h in ours] and [h["part"] for h in hits] == [
        h.part for h in ours
    ]
    np.testing.assert_allclose([h["score"] for h in hits], [h.score for h in ours], atol=1e-4)
