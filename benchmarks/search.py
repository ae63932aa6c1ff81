"""Vector search as users of `amodal.search` call it, against faiss and hnswlib: building,
answering, and answering under a filter.

200,000 unit vectors of 256 numbers, in 1,000 loose clusters whose spectrum falls as those of
encoders do; k = 10. What is tuned (lists to probe, width of a graph search) is the smallest power
of two with which 200 other queries find 95 % of their nearest neighbours; ours tunes itself.
Queries are asked one at a time, on one thread, by the clock on the wall; building may use all
threads. Ours keeps keys and labels on disk and returns keys, scores and labels; peers are bare
arrays in memory that return row numbers. A filter of ours is a label and its value; peers get a bit
set that numpy makes of a comparison with each query.
"""

import importlib.util
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.search import Index
from benchmarks._timing import Row
from benchmarks._wall_clock import row_of

COUNT, WIDTH, K, RECALL = 200_000, 256, 10, 0.95
TUNING, ASKED, TURNS = 200, 200, 5
LISTS = 1024
PEERS = ("faiss-cpu", "hnswlib")

Search = Callable[[np.ndarray], Sequence[int]]
"""A query (D,) -> up to K row numbers."""


def run() -> list[Row]:
    if importlib.util.find_spec("faiss") is None:
        print("search: faiss is not installed, there is nothing to measure")
        return []
    vectors, groups, amounts = made(COUNT, seed=1)
    queries = made(TUNING + ASKED, seed=2)[0]
    with tempfile.TemporaryDirectory() as folder:
        threads(os.cpu_count() or 1)
        index, filled = timed(lambda: ours(Path(folder), vectors, groups, amounts))
        cache, tuned = timed(lambda: index.approximate("image"))
        built = {name: timed(lambda make=make: make(vectors)) for name, make in makers().items()}
        threads(1)
        build_note = f"build {COUNT:,} x {WIDTH}: to disk with labels {filled:.1f} s, then its faiss cache, tuned"
        rows = [
            single_timing(build_note, f"{name} (in memory)", filled + tuned, seconds)
            for name, (_, seconds) in built.items()
        ]
        peers = {name: peer for name, (peer, _) in built.items()}
        return (
            rows
            + unfiltered(index, peers, vectors, queries)
            + filtered(index, peers, vectors, queries, groups, amounts)
        )


# What is searched


def made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (count, WIDTH) float32, groups (count,) 0 … 99, amounts (count,) 0 … 1."""
    centres = np.random.default_rng(0).standard_normal((1000, WIDTH), dtype=np.float32)
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(1000, size=count)] + 1.5 * rng.standard_normal(
        (count, WIDTH), dtype=np.float32
    )
    x /= np.arange(1, WIDTH + 1, dtype=np.float32) ** 0.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, rng.integers(100, size=count), rng.random(count)


def ours(folder: Path, vectors: np.ndarray, groups: np.ndarray, amounts: np.ndarray) -> Index:
    index = Index(folder)
    column = Column(torch.from_numpy(vectors), torch.arange(len(vectors)))
    labels = {"group": np.array([f"g{g}" for g in groups], dtype=object), "amount": amounts}
    return index.add(
        map(str, range(len(vectors))), Embeddings({"image": column}, len(vectors)), labels
    )


# Peers


class Faiss:
    """knob: what is tuned, None for an exact index."""

    def __init__(self, index, knob: str | None, parameters: type):
        self.index, self.knob, self.parameters, self.value = index, knob, parameters, 1

    def search(self, query: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        import faiss

        options = {self.knob: self.value} if self.knob else {}
        if allowed is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        return self.index.search(query[None], K, params=self.parameters(**options))[1][0]


class Hnswlib:
    knob = "ef"

    def __init__(self, index):
        self.index, self._value = index, K

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        self._value = value
        self.index.set_ef(max(value, K))

    def search(self, query: np.ndarray) -> np.ndarray:
        return self.index.knn_query(query, K, num_threads=1)[0][0]


def makers() -> dict[str, Callable[[np.ndarray], object]]:
    import faiss

    def flat(x: np.ndarray) -> Faiss:
        index = faiss.IndexFlatIP(WIDTH)
        index.add(x)
        return Faiss(index, None, faiss.SearchParameters)

    def ivf(x: np.ndarray, kind: str = "Flat") -> Faiss:
        index = faiss.index_factory(WIDTH, f"IVF{LISTS},{kind}", faiss.METRIC_INNER_PRODUCT)
        index.train(x[: 64 * LISTS])
        index.add(x)
        return Faiss(index, "nprobe", faiss.SearchParametersIVF)

    def hnsw(x: np.ndarray) -> Faiss:
        index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        index.add(x)
        return Faiss(index, "efSearch", faiss.SearchParametersHNSW)

    def hnswlib_graph(x: np.ndarray) -> Hnswlib:
        import hnswlib

        index = hnswlib.Index("ip", WIDTH)
        index.init_index(len(x), M=16, ef_construction=100)
        index.add_items(x)
        return Hnswlib(index)

    found = {
        "faiss flat": flat,
        f"faiss IVF{LISTS}": ivf,
        f"faiss IVF{LISTS}-SQ8": lambda x: ivf(x, "SQ8"),
        "faiss HNSW32": hnsw,
    }
    if importlib.util.find_spec("hnswlib") is None:
        print("search: hnswlib is not installed, its lines are left out")
        return found
    return found | {"hnswlib M16": hnswlib_graph}


# Measuring


def unfiltered(index: Index, peers: dict, vectors: np.ndarray, queries: np.ndarray) -> list[Row]:
    truth = nearest(vectors, queries)
    for peer in peers.values():
        tune(peer, lambda q, peer=peer: peer.search(q), queries, truth)
    rows = []
    exact, cached = (index_search(index, threshold) for threshold in (math.inf, 0))
    searches = {name: peer.search for name, peer in peers.items()}
    rows += compared(
        "exact search", exact, {"faiss flat": searches.pop("faiss flat")}, queries, truth
    )
    return rows + compared("approximate search", cached, searches, queries, truth)


def filtered(index: Index, peers: dict, vectors, queries, groups, amounts) -> list[Row]:
    """Under a filter the graph of hnswlib calls Python for each vector it meets, so it is left out."""
    rows = []
    for share, where, test in (
        ("1 %", {"group": "g7"}, lambda: groups == 7),
        ("50 %", {"amount": (0.0, 0.5)}, lambda: amounts <= 0.5),
    ):
        matching = np.flatnonzero(test())
        truth = matching[nearest(vectors[matching], queries)]
        searches = {}
        for name, peer in peers.items():
            if isinstance(peer, Faiss):
                searches[name] = lambda q, peer=peer, test=test: peer.search(q, test())
                if not tune(peer, searches[name], queries, truth):
                    print(
                        f"search: {name} does not reach recall {RECALL} where a filter lets {share} through"
                    )
                    del searches[name]
                else:
                    searches[name] = with_filter(peer, peer.value, test)
        rows += compared(
            f"filter of {share}", index_search(index, 100_000, where), searches, queries, truth
        )
    return rows


def with_filter(peer: Faiss, value: int, test: Callable[[], np.ndarray]) -> Search:
    """A peer as it was tuned for one filter."""

    def search(query: np.ndarray) -> np.ndarray:
        peer.value = value
        return peer.search(query, test())

    return search


def index_search(index: Index, threshold: float, where: dict | None = None) -> Search:
    def search(query: np.ndarray) -> list[int]:
        index.threshold = threshold
        return [int(key) for key, *_ in index.nearest(torch.from_numpy(query), k=K, where=where)]

    return search


def tune(peer, search: Search, queries: np.ndarray, truth: np.ndarray) -> bool:
    """Set the peer's knob; whether the recall is reached."""
    peer.value = 1
    while peer.knob and recall(search, queries[:TUNING], truth[:TUNING]) < RECALL:
        if peer.value >= 4096:
            return False
        peer.value *= 2
    return True


def compared(
    what: str, mine: Search, searches: dict[str, Search], queries: np.ndarray, truth: np.ndarray
) -> list[Row]:
    """Everybody's queries in turns, in an order that is reversed every other turn."""
    queries, truth = queries[TUNING:], truth[TUNING:]
    calls = {"ours": mine} | searches
    recalls = {name: recall(call, queries, truth) for name, call in calls.items()}
    taken: dict[str, list] = {name: [] for name in calls}
    for turn in range(TURNS):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            taken[name].append((seconds_per_query(calls[name], queries), math.nan))

    def speed_and_recall(name: str) -> str:
        rate = 1 / statistics.median(seconds for seconds, _ in taken[name])
        return f"{rate:,.0f} queries/s, recall {recalls[name]:.3f}"

    return [
        row_of(
            f"{what}, {speed_and_recall('ours')}",
            f"{name}, {speed_and_recall(name)}",
            taken["ours"],
            taken[name],
        )
        for name in searches
    ]


def recall(search: Search, queries: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean(
            [len(np.intersect1d(search(q), near)) / len(near) for q, near in zip(queries, truth)]
        )
    )


def nearest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(Q, K) row numbers, best first."""
    return torch.from_numpy(queries @ vectors.T).topk(K, dim=1).indices.numpy()


def timed(call: Callable):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def seconds_per_query(search: Search, queries: np.ndarray) -> float:
    """Seconds for one query."""
    return timed(lambda: [search(query) for query in queries])[1] / len(queries)


def single_timing(what: str, peer: str, mine: float, theirs: float) -> Row:
    return row_of(what, peer, [(mine, math.nan)], [(theirs, math.nan)])


def threads(count: int) -> None:
    import faiss

    faiss.omp_set_num_threads(count)
    torch.set_num_threads(count)
