"""The approximate index of one field: faiss's IVF lists over codes of 4 bits a number, a cache of
the log that can be made again at any time.

The codes are of the vectors' leading directions, and short enough to be compared from the
processor's registers (faiss's "fast scan"); they choose candidates, which are ranked by the exact
vectors. How many lists are probed and how many candidates are taken is chosen by measurement: the
fewest with which held-out queries find 95 % of their ten nearest neighbours.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.core.matmul import fast_products
from amodal.search._log import Log, write_atomically

RECALL = 0.95
NEAREST = 10
QUERIES = 256
FEWEST = 1024
"""Vectors below which there is nothing to learn codes from, and exact search is as quick."""
VARIANCE, NARROWEST = 0.88, 64
"""Share that the directions keep which codes are of, and how many they are at least: with fewer,
more candidates are needed; with all, codes are twice as long."""
WIDEST = 64
"""Candidates at most for each result wanted."""
TRAINED, ITERATIONS = 40, 10
"""Vectors for each list that faiss learns from (it warns of fewer than 39), and steps of k-means;
25 find no more neighbours."""
TILE = 8192
"""Vectors that exact search makes float32 at a time: they stay in the processor's cache, which
makes it ten times as fast."""


def faiss():
    try:
        import faiss as module
    except ImportError:
        raise AmodalError(
            "an index of this size is searched by faiss, which is not installed: pip install 'amodal[search]'"
        ) from None
    return module


class Approximate:
    """built: faiss's index over the first `count` vectors of the log; trained: how many there were
    when it learnt; probes: lists to look into; wider: candidates taken for each result wanted;
    recall: measured."""

    def __init__(self, built, count: int, trained: int, probes: int, wider: int, recall: float):
        self.built, self.count, self.trained = built, count, trained
        self.probes, self.wider, self.recall = probes, wider, recall
        self.lists = faiss().extract_index_ivf(built).nlist

    @staticmethod
    def of(log: Log, source: str, queries: np.ndarray) -> Approximate:
        """The cache of a field, brought up to date: read if there is one, extended by new vectors,
        made anew if there is none or the log has more than doubled since. queries (n, D) float32
        are what probing is tuned on."""
        lib = faiss()
        file, meta = log.file(source, "faiss"), log.file(source, "faiss.json")
        vectors, _ = log.vectors(source)
        found = Approximate._read(lib, file, meta)
        if found is not None and found.count == len(vectors):
            return found
        if found is None or found.count > len(vectors) or len(vectors) > 2 * found.trained:
            found = Approximate(_learnt(lib, vectors), 0, len(vectors), 1, 1, 0.0)
        lib.downcast_index(
            found.built.index
        ).pq.sync_transposed_centroids()  # the same codes in a third of the time
        for start in range(found.count, len(vectors), 65536):
            found.built.add(_floats(vectors[start : start + 65536]))
        found.count = len(vectors)
        found._tune(vectors, queries)
        try:
            write_atomically(file, lib.serialize_index(found.built).tobytes())
            content = {
                name: getattr(found, name)
                for name in ("count", "trained", "probes", "wider", "recall")
            }
            write_atomically(meta, json.dumps(content).encode())
        except OSError:
            file.unlink(missing_ok=True)  # a cache; searching goes on without it
        return found

    @staticmethod
    def _read(lib, file: Path, meta: Path) -> Approximate | None:
        try:
            built = lib.deserialize_index(np.frombuffer(file.read_bytes(), dtype=np.uint8))
            made = Approximate(built, **json.loads(meta.read_text()))
        except (OSError, ValueError, TypeError, RuntimeError):
            return None  # also one of an earlier version
        return (
            made if built.ntotal == made.count else None
        )  # the two files are written one after the other

    @fast_products()
    def _tune(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        """Probe half as many lists again, or else double the candidates, whichever finds more
        neighbours, until they are enough."""
        queries = queries[:QUERIES]
        # The first is often what a trial query was made from, and found for free.
        near = exact(vectors, queries, NEAREST + 1)[1][:, 1:]

        def recall(probes: int, wider: int) -> tuple[float, float]:
            """As one can count on (a standard error less), and as measured."""
            self.probes, self.wider = probes, wider
            at = self._candidates(queries, NEAREST + 1)
            found = [_best(vectors, query, own, NEAREST + 1)[1] for query, own in zip(queries, at)]
            each = [len(np.intersect1d(a, b)) / max(len(b), 1) for a, b in zip(found, near)]
            return float(np.mean(each) - np.std(each) / len(each) ** 0.5), float(np.mean(each))

        probes, wider = max(1, self.lists // 64), 4
        sure, self.recall = recall(probes, wider)
        while sure < RECALL and (probes < self.lists or wider < WIDEST):
            more = min(probes + (probes + 1) // 2, self.lists), min(2 * wider, WIDEST)
            choices = {(more[0], wider), (probes, more[1])} - {(probes, wider)}
            (sure, self.recall), probes, wider = max(
                (recall(*choice), *choice) for choice in choices
            )
        self.probes, self.wider = probes, wider

    def search(
        self, vectors: np.ndarray, query_D: np.ndarray, k: int, kept: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and places of up to k vectors. kept: (n,) bool, those that may be returned."""
        query = np.ascontiguousarray(query_D, dtype=np.float32)
        return _best(vectors, query, self._candidates(query[None], k, kept)[0], k)

    def _candidates(
        self, queries_QD: np.ndarray, k: int, kept: np.ndarray | None = None
    ) -> np.ndarray:
        """(Q, wider * k) places, best first by their codes, -1 where there are no more."""
        lib, options = faiss(), {}
        if kept is not None:
            options["sel"] = lib.IDSelectorBitmap(
                np.packbits(kept[: self.count], bitorder="little")
            )
        for probes in (self.probes, self.lists):
            inner = lib.SearchParametersIVF(nprobe=probes, **options)
            params = lib.SearchParametersPreTransform(index_params=inner)
            at = self.built.search(queries_QD, min(self.wider * k, self.count), params=params)[1]
            if kept is None or at[:, -1].min() >= 0:
                break  # else what may be returned lies elsewhere than in the lists that are nearest
        return at


def _best(
    vectors: np.ndarray, query_D: np.ndarray, at: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and places of the k best of these places, by the vectors themselves."""
    import torch

    at = np.sort(at[at >= 0])
    part = torch.from_numpy(vectors).index_select(
        0, torch.from_numpy(at)
    )  # a fifth of the time of vectors[at]
    scores = np.einsum(
        "nd,d->n", part.float().numpy(), query_D
    )  # a BLAS would wake its threads for so little
    best = np.argsort(-scores, kind="stable")[:k]
    return scores[best], at[best]


def _learnt(lib, vectors: np.ndarray):
    """faiss's index for vectors like these (n, D) float16, with none in it."""
    n, width = vectors.shape
    lists = max(1, min(2 ** round(np.log2(n**0.5)), n // TRAINED))
    some = _floats(vectors[np.sort(np.random.default_rng(0).permutation(n)[: TRAINED * lists])])
    basis = np.linalg.eigh(some.T @ some)[1][:, ::-1]
    # Products are kept by directions of the products' own matrix; how many, by what differs between
    # vectors, not by what all share.
    share = np.cumsum((some @ basis).var(axis=0))
    enough = 1 + int(np.searchsorted(share, VARIANCE * share[-1]))
    kept = min(width, max(NARROWEST, -(-enough // 8) * 8))
    turned = lib.LinearTransform(width, kept, False)
    lib.copy_array_to_vector(
        np.ascontiguousarray(basis[:, :kept].T, dtype=np.float32).ravel(), turned.A
    )
    turned.is_trained = True
    quantizer = lib.IndexFlatIP(kept)
    codes = lib.IndexIVFPQFastScan(quantizer, kept, lists, kept, 4, lib.METRIC_INNER_PRODUCT)
    codes.by_residual = True
    codes.cp.niter = codes.pq.cp.niter = ITERATIONS
    x = turned.apply(some)
    codes.train_q1(len(x), lib.swig_ptr(x), False, lib.METRIC_INNER_PRODUCT)
    threads = lib.omp_get_max_threads()
    # Codes are learnt a number at a time: threads would wait for each other, ten times as long on a
    # busy machine.
    lib.omp_set_num_threads(1)
    try:
        codes.train(x)
    finally:
        lib.omp_set_num_threads(threads)
    return lib.IndexPreTransform(turned, codes)


def _floats(vectors: np.ndarray) -> np.ndarray:
    import torch

    return torch.from_numpy(np.asarray(vectors)).float().numpy()  # quicker than numpy


def exact(
    vectors: np.ndarray,
    queries_QD: np.ndarray,
    k: int,
    kept: np.ndarray | None = None,
    unsigned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, k) scores and places of the nearest of `vectors` (n, D) float16; fewer where there are
    fewer. kept: (n,) bool; unsigned: by the size of the product."""
    import torch

    queries = torch.from_numpy(np.ascontiguousarray(queries_QD, dtype=np.float32))
    values = torch.from_numpy(vectors)
    places = None if kept is None else torch.from_numpy(np.flatnonzero(kept))
    total = len(values) if places is None else len(places)
    scores, at = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for start in range(0, total, TILE):
        stop = min(start + TILE, total)
        part = values[start:stop] if places is None else values.index_select(0, places[start:stop])
        similarity = queries @ part.float().T
        similarity = similarity.abs() if unsigned else similarity
        best, near = similarity.topk(min(k, stop - start), dim=1)
        near = near + start if places is None else places[start:stop][near]
        scores, at = torch.cat([scores, best], 1), torch.cat([at, near], 1)
        if scores.shape[1] > k:
            scores, order = scores.topk(k, dim=1)
            at = at.gather(1, order)
    return scores.numpy(), at.numpy()
