"""The index: survives kills, is updated in place, filters, and agrees with exact search when it is
approximate."""

import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError, Column, Embeddings
from amodal.search import Index

ZONES = np.array(["arid", "cold", "polar", "tropical"], dtype=object)


def vectors(n, width=16, seed=0, fields=("image", "text"), clusters=0):
    g = torch.Generator().manual_seed(seed)
    columns = {}
    for i, s in enumerate(fields):
        rows = torch.arange(0, n, i + 1)
        x = torch.randn(len(rows), width, generator=g)
        if clusters:
            x = (
                0.35 * x
                + torch.randn(clusters, width, generator=g)[
                    torch.randint(clusters, (len(rows),), generator=g)
                ]
            )
        columns[s] = Column(x, rows)
    return Embeddings(columns, n)


def labels(n):
    return {"zone": ZONES[np.arange(n) % 4], "height": np.arange(n, dtype=float)}


def naive(e, field, query, k, rows=None):
    c = e[field]
    scores = normalize(c.values, dim=1).half().float() @ normalize(query, dim=0)
    scores = (
        scores
        if rows is None
        else scores.masked_fill(~torch.from_numpy(np.isin(c.rows.numpy(), rows)), -9)
    )
    return [f"k{c.rows[i]}" for i in scores.argsort(descending=True)[:k].tolist()]


@pytest.fixture
def filled(tmp_path):
    e = vectors(400)
    return Index.open(tmp_path / "index", fingerprint="abc").add(
        [f"k{i}" for i in range(400)], e, labels(400)
    ), e


def test_nearest_is_what_a_loop_finds_and_survives_reopening(filled):
    index, e = filled
    query = torch.randn(16, generator=torch.Generator().manual_seed(5))
    for made in (index, Index.open(index.path, fingerprint="abc")):
        assert len(made) == 400 and made.sources == ["image", "text"]
        assert [key for key, *_ in made.nearest(query, k=7, fields=["text"])] == naive(
            e, "text", query, 7
        )
    both = index.nearest(query, k=400)
    assert len(both) == len({key for key, *_ in both}) == 400, "each record once"
    scores = [score for _, score, *_ in both]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("threshold", [0, 1000])
def test_unsigned_vectors_are_near_on_both_sides(filled, threshold):
    index, e = filled
    index = Index.open(index.path, fingerprint="abc", threshold=threshold)  # 0 would be faiss's
    query = torch.randn(16, generator=torch.Generator().manual_seed(5))
    scores = (normalize(e["image"].values, dim=1).half().float() @ normalize(query, dim=0)).abs()
    found = index.nearest(query, k=9, fields=["image"], unsigned=True)
    assert [key for key, *_ in found] == [
        f"k{i}" for i in scores.argsort(descending=True)[:9].tolist()
    ]
    assert found == index.nearest(-query, k=9, fields=["image"], unsigned=True)
    assert [f[0] for f in found] != [f[0] for f in index.nearest(query, k=9, fields=["image"])]


def test_filters(filled):
    index, e = filled
    query = torch.randn(16, generator=torch.Generator().manual_seed(6))
    arid = np.arange(0, 400, 4)
    assert [
        h[0] for h in index.nearest(query, k=5, fields=["image"], where={"zone": "arid"})
    ] == naive(e, "image", query, 5, arid)
    two = index.nearest(
        query, k=400, fields=["image"], where={"zone": ["arid", "cold"], "height": (10, 30)}
    )
    assert {h[0] for h in two} == {f"k{i}" for i in range(10, 31) if i % 4 < 2}
    assert {h[0] for h in index.nearest(query, k=99, where={"height": "395.."})} == {
        f"k{i}" for i in range(395, 400)
    }
    assert [
        h[0] for h in index.nearest(query, k=9, where=lambda record: record["height"] == 17)
    ] == ["k17"]
    assert index.nearest(query, where={"height": "900..901"}) == []
    with pytest.raises(AmodalError, match="no value of zone is called 'ardi'. Did you mean arid"):
        index.nearest(query, where={"zone": "ardi"})
    with pytest.raises(
        AmodalError, match="no label in this index is called 'zones'. Did you mean zone"
    ):
        index.nearest(query, where={"zones": "arid"})
    with pytest.raises(AmodalError, match="'height' is a number"):
        index.nearest(query, where={"height": "tall"})


def test_labels_that_are_missing_stay_missing(tmp_path):
    e = Embeddings({"image": Column(torch.eye(4), torch.arange(4))}, 4)
    own = {
        "zone": np.array(["arid", None, "cold", None], dtype=object),
        "height": np.array([1.5, np.nan, np.inf, 2]),
    }
    index = Index.open(tmp_path).add("abcd", e, own)
    for made in (index, Index.open(tmp_path)):
        found = {key: labels for key, _, _, labels, _ in made.nearest(torch.ones(4))}
        assert found["a"] == {"zone": "arid", "height": 1.5} and found["b"] == {
            "zone": None,
            "height": None,
        }
        assert found["c"] == {"zone": "cold", "height": None} and found["d"] == {
            "zone": None,
            "height": 2.0,
        }


def test_replace_delete_and_tidy(filled):
    index, e = filled
    new = torch.eye(16)[:1]
    index.add(["k3"], Embeddings({"image": Column(new, torch.arange(1))}, 1), {"zone": ["arid"]})
    assert len(index) == 400 and index.nearest(new[0], k=1)[0][:1] == ("k3",)
    assert index.nearest(new[0], k=1)[0][3]["zone"] == "arid"
    assert index.delete(["k3", "k5", "nobody"]) == 2 and len(index) == 398 and "k5" not in index
    assert "k3" not in {h[0] for h in index.nearest(new[0], k=400)}
    index.delete([f"k{i}" for i in range(330)])
    assert index.log.generation == 1, "the dead were cleared out"
    reopened = Index.open(index.path)
    assert (
        sorted(reopened.keys) == sorted(f"k{i}" for i in range(330, 400))
        and len(reopened.alive) == 70
    )
    query = torch.randn(16, generator=torch.Generator().manual_seed(7))
    assert [h[0] for h in reopened.nearest(query, k=5, fields=["text"])] == naive(
        e, "text", query, 5, np.arange(330, 400)
    )
    assert not list(index.path.glob("*.0.*"))


def write_for_ever(path, first):
    index = Index.open(path)
    for i in range(first, first + 100000):
        g = torch.Generator().manual_seed(i)
        e = Embeddings(
            {
                s: Column(torch.randn(20, 16, generator=g), torch.arange(20))
                for s in ("image", "text")
            },
            20,
        )
        index.add([f"{i}-{j}" for j in range(20)], e, {"turn": np.full(20, float(i))})


def killed(write, path, first, wait):
    """The index that `write(path, first)`, which adds 20 records at a time, leaves when killed
    `wait` seconds after a commit."""
    before = len(Index.open(path))
    process = multiprocessing.get_context("fork").Process(target=write, args=(path, first))
    process.start()
    deadline = time.time() + 30
    while len(Index.open(path)) <= before and process.is_alive() and time.time() < deadline:
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    index = Index.open(path)
    assert len(index) > before and len(index) % 20 == 0, "a commit is whole or not there"
    return index


def test_a_killed_writer_leaves_what_it_had_committed(tmp_path):
    for turn in range(8):
        index = killed(write_for_ever, tmp_path, 1000 * turn, 0.003 * turn)
        for i in (0, max(int(k.split("-")[0]) for k in index.keys)):
            g = torch.Generator().manual_seed(i)
            hit = index.nearest(torch.randn(20, 16, generator=g)[7], k=1, fields=["image"])[0]
            assert hit[0] == f"{i}-7" and hit[1] > 0.999 and hit[3] == {"turn": float(i)}


def test_a_torn_tail_is_not_seen_and_is_written_over(filled):
    index, _ = filled
    for name in ("records.0.jsonl", "image.0.f16", "image.0.rows", "dead.0.bin"):
        with (index.path / name).open("ab") as file:
            file.write(b"\x07" * 33)
    reopened = Index.open(index.path)
    assert len(reopened) == 400
    reopened.add(["new"], Embeddings({"image": Column(torch.eye(16)[:1], torch.arange(1))}, 1))
    assert Index.open(index.path).nearest(torch.eye(16)[0], k=1)[0][0] == "new"


def test_damage_and_misuse_are_explained(filled, tmp_path):
    index, e = filled
    with pytest.raises(AmodalError, match="made by another encoder.*Index anew"):
        Index.open(index.path, fingerprint="other")
    with pytest.raises(AmodalError, match="nothing in the index.*amodal index"):
        Index.open(tmp_path / "empty").nearest(torch.zeros(16))
    with pytest.raises(
        AmodalError, match="no field in this index is called 'imgae'. Did you mean image"
    ):
        index.nearest(torch.ones(16), fields=["imgae"])
    with pytest.raises(AmodalError, match="vectors of 16 dimensions"):
        index.nearest(torch.ones(5))
    with pytest.raises(AmodalError, match="do not go into an index of 16"):
        index.add(["x"], Embeddings({"image": Column(torch.ones(1, 5), torch.arange(1))}, 1))
    with pytest.raises(AmodalError, match="'zone' has 2 values for 1 records"):
        index.add(
            ["x"],
            Embeddings({"image": Column(torch.ones(1, 16), torch.arange(1))}, 1),
            {"zone": ["arid", "cold"]},
        )
    with pytest.raises(AmodalError, match="only be searched"):
        index.update(None)
    with index.log.writing(), pytest.raises(AmodalError, match="another process is writing"):
        Index.open(index.path).delete(["k1"])
    (index.path / "image.0.f16").write_bytes(b"12")
    with pytest.raises(AmodalError, match="damaged.*index anew"):
        Index.open(index.path).nearest(torch.ones(16))
    (index.path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(AmodalError, match="cannot be read.*index anew"):
        Index.open(index.path)


def test_a_full_disk_leaves_the_index_as_it_was(filled, monkeypatch):
    index, _ = filled

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AmodalError, match="No space left.*unharmed"):
        index.add(["new"], Embeddings({"image": Column(torch.eye(16)[:1], torch.arange(1))}, 1))
    monkeypatch.undo()
    assert len(Index.open(index.path)) == 400


def test_approximate_search_finds_what_exact_search_does(tmp_path):
    n = 6000
    e = vectors(n, width=24, clusters=60, fields=("image",))
    keys = [f"k{i}" for i in range(n)]
    index = Index.open(tmp_path, threshold=1000).add(
        keys[:4000], Embeddings({"image": e["image"].between(0, 4000)}, 4000), labels(4000)
    )
    exact = Index.open(tmp_path, threshold=10**9)
    queries = normalize(
        e["image"].values[::40]
        + 0.02 * torch.randn(150, 24, generator=torch.Generator().manual_seed(3)),
        dim=1,
    )

    def recall(**options):
        shares = []
        for q in queries:
            a, b = ({h[0] for h in i.nearest(q, k=10, **options)} for i in (index, exact))
            shares.append(len(a & b) / 10)
        return np.mean(shares)

    assert recall() >= 0.95
    used = index.approximate("image")
    assert used.recall >= 0.95 and used.probes < used.lists and used.count == 4000
    built = used.trained
    index.delete(keys[:10])
    index.add(
        keys[4000:],
        Embeddings({"image": e["image"].between(4000, n)}, n - 4000),
        {k: v[4000:] for k, v in labels(n).items()},
    )
    exact = Index.open(tmp_path, threshold=10**9)
    assert recall() >= 0.95, "new vectors are added, not built anew"
    assert index.approximate("image").count == 6000 and index.approximate("image").trained == built
    assert recall(where={"zone": "arid"}) >= 0.9
    assert recall(where={"height": (100, 160)}) == 1.0, "a selective filter is searched exactly"
    assert not {f"k{i}" for i in range(10)} & {
        h[0] for q in queries[:20] for h in index.nearest(q, k=10)
    }
    reopened = Index.open(tmp_path, threshold=1000).approximate("image")
    assert reopened.probes == index.approximate("image").probes, "the cache is kept"
    (tmp_path / "image.0.faiss").write_bytes(b"torn")
    index = Index.open(tmp_path, threshold=1000)
    assert recall() >= 0.95, "and made again when it is damaged"


def test_a_filter_that_lets_through_what_is_far_away_finds_it(tmp_path):
    e = vectors(4000, width=24, clusters=60, fields=("image",))
    units = normalize(e["image"].values, dim=1)
    near = units @ units[0]
    far = (near < near.median() - 0.2).numpy()
    own = {"side": np.where(far, "there", "here").astype(object)}
    index = Index.open(tmp_path, threshold=1000).add([f"k{i}" for i in range(4000)], e, own)
    exact, shares = Index.open(tmp_path, threshold=10**9), []
    for query in units[near.argsort(descending=True)[:20]]:
        a, b = (
            [h[0] for h in i.nearest(query, k=10, where={"side": "there"})] for i in (index, exact)
        )
        assert len(a) == 10 and far.mean() > 0.05, (
            "the lists that are nearest to the query have none of them"
        )
        shares.append(len({*a} & {*b}) / 10)
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_approximate_search_among_vectors_that_share_a_direction(tmp_path, spread):
    """As those of a field do: what they share must not be taken for what tells them apart, nor two
    fields on two sides be mixed up."""
    g, n, falling = torch.Generator().manual_seed(0), 3000, 1 / torch.arange(1, 97) ** 0.5
    centres, shared = (
        torch.randn(30, 96, generator=g),
        torch.nn.functional.one_hot(torch.tensor(50), 96),
    )

    def made(count, sign):
        x = centres[torch.randint(30, (count,), generator=g)] + torch.randn(count, 96, generator=g)
        return normalize(spread * x * falling / 3 + sign * shared, dim=1)

    e = Embeddings(
        {s: Column(made(n, sign), torch.arange(n)) for s, sign in (("image", 1), ("text", -1))}, n
    )
    keys = [f"k{i}" for i in range(n)]
    index = Index.open(tmp_path, threshold=1000).add(keys, e)
    exact = Index.open(tmp_path, threshold=10**9)
    for asked in ("image", "text"):
        shares = []
        for query in made(60, 1 if asked == "image" else -1):
            a, b = (
                {h[0] for h in i.nearest(query, k=10, fields=["image"])} for i in (index, exact)
            )
            shares.append(len(a & b) / 10)
        assert np.mean(shares) > 0.93
    assert index.approximate("image").probes < index.approximate("image").lists


def test_a_cache_of_an_earlier_version_is_rebuilt(tmp_path):
    faiss, e = pytest.importorskip("faiss"), vectors(2000, width=24, clusters=20, fields=("image",))
    index = Index.open(tmp_path, threshold=1000).add([f"k{i}" for i in range(2000)], e)
    before = index.approximate("image").built.ntotal
    old = faiss.index_factory(24, "IVF16,SQ8", faiss.METRIC_INNER_PRODUCT)
    old.train(e["image"].values.numpy())
    old.add(e["image"].values.numpy())
    (tmp_path / "image.0.faiss").write_bytes(faiss.serialize_index(old).tobytes())
    (tmp_path / "image.0.faiss.json").write_text(
        '{"count": 2000, "trained": 2000, "probes": 4, "recall": 0.97}', encoding="utf-8"
    )
    reopened = Index.open(tmp_path, threshold=1000)
    assert (
        reopened.nearest(e["image"].values[7], k=1)[0][0] == "k7"
        and reopened.approximate("image").built.ntotal == before
    )


def test_without_faiss_it_says_what_to_install(tmp_path, monkeypatch):
    index = Index.open(tmp_path, threshold=100).add([f"k{i}" for i in range(1100)], vectors(1100))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[search\]'"):
        index.nearest(torch.ones(16))
