"""The approximate index of one field: faiss's IVF over codes of 4 bits a number. It is a cache of
the log and can be rebuilt at any time.

The codes are of the vectors' leading directions, and short enough to be compared from the
processor's registers (faiss's "fast scan"); they choose candidates, which are ranked by the exact
vectors. How many lists are probed and how many candidates are taken is measured: the fewest with
which held-out queries find 95 % of their ten nearest neighbours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.core.matmul import fast_products
from amodal.search._log import Log, write_atomically

RECALL = 0.95
NEAREST = 10
QUERIES = 256
MIN_VECTORS = 1024
"""Fewer vectors are too few to learn codes from, and exact search is as quick."""
VARIANCE, MIN_DIRECTIONS = 0.88, 64
"""Share that the directions keep which codes are of, and how many they are at least: with fewer,
more candidates are needed; with all, codes are twice as long."""
MAX_WIDER = 64
"""Candidates at most for each result wanted."""
TRAIN_PER_LIST, ITERATIONS = 40, 10
"""Vectors for each list that faiss learns from (it warns of fewer than 39), and steps of k-means;
25 find no more neighbours."""
TILE = 8192
"""Vectors that exact search makes float32 at a time: they stay in the processor's cache, which
makes it ten times as fast."""


def faiss() -> Any:
    """The module. Raises AmodalError that says what to install."""
    try:
        import faiss as module
    except ImportError:
        raise AmodalError(
            "an index of this size is searched by faiss, which is not installed: pip install "
            "'amodal[search]'"
        ) from None
    return module


class Approximate:
    """A faiss index with what was tuned on it.

    Args:
        built: faiss's index over the first `count` vectors of the log.
        count: Vectors in it.
        trained: Vectors that the log had when it was trained.
        probes: Lists to search (faiss's nprobe).
        wider: Candidates for each result wanted (faiss's k_factor).
        recall: Measured.
    """

    def __init__(
        self, built: Any, count: int, trained: int, probes: int, wider: int, recall: float
    ):
        self.built, self.count, self.trained = built, count, trained
        self.probes, self.wider, self.recall = probes, wider, recall
        self.lists = faiss().extract_index_ivf(built).nlist

    @staticmethod
    def load(log: Log, source: str, queries: np.ndarray) -> Approximate:
        """Read the cache of a field and bring it up to date. It is built anew if there is none, or
        if the log has more than doubled since.

        Args:
            log: Of the index.
            source: The field.
            queries: (n, D) float32, to tune on.
        """
        lib = faiss()
        file, meta = log.file(source, "faiss"), log.file(source, "faiss.json")
        vectors, _ = log.vectors(source)
        found = Approximate._read(lib, file, meta)
        if found is not None and found.count == len(vectors):
            return found
        if found is None or found.count > len(vectors) or len(vectors) > 2 * found.trained:
            found = Approximate(_train(lib, vectors), 0, len(vectors), 1, 1, 0.0)
        found._add_new(lib, vectors)
        found._tune(vectors, queries)
        try:
            write_atomically(file, lib.serialize_index(found.built).tobytes())
            content = {
                name: getattr(found, name)
                for name in ("count", "trained", "probes", "wider", "recall")
            }
            write_atomically(meta, json.dumps(content).encode())
        except OSError:
            file.unlink(missing_ok=True)  # only a cache; search goes on without it
        return found

    def _add_new(self, lib: Any, vectors: np.ndarray) -> None:
        """Add the vectors of the log that are not in it."""
        # the same codes in a third of the time
        lib.downcast_index(self.built.index).pq.sync_transposed_centroids()
        for start in range(self.count, len(vectors), 65536):
            self.built.add(_floats(vectors[start : start + 65536]))
        self.count = len(vectors)

    @staticmethod
    def _read(lib: Any, file: Path, meta: Path) -> Approximate | None:
        try:
            built = lib.deserialize_index(np.frombuffer(file.read_bytes(), dtype=np.uint8))
            made = Approximate(built, **json.loads(meta.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RuntimeError):
            return None  # also one of an earlier version
        # The two files are written one after the other: a killed writer leaves an old one.
        return made if built.ntotal == made.count else None

    @fast_products()
    def _tune(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        """Probe half as many lists again, or else double the candidates, whichever finds more
        neighbours, until they are enough."""
        queries = queries[:QUERIES]
        # The first is often what a trial query was made from, and found for free.
        near = exact(vectors, queries, NEAREST + 1)[1][:, 1:]

        def recall(probes: int, wider: int) -> tuple[float, float]:
            """A lower bound (one standard error below), and the mean."""
            self.probes, self.wider = probes, wider
            places = self._candidates(queries, NEAREST + 1)
            hits = [_best(vectors, q, own, NEAREST + 1)[1] for q, own in zip(queries, places)]
            each = [len(np.intersect1d(a, b)) / max(len(b), 1) for a, b in zip(hits, near)]
            return float(np.mean(each) - np.std(each) / len(each) ** 0.5), float(np.mean(each))

        probes, wider = max(1, self.lists // 64), 4
        sure, self.recall = recall(probes, wider)
        while sure < RECALL and (probes < self.lists or wider < MAX_WIDER):
            more = min(probes + (probes + 1) // 2, self.lists), min(2 * wider, MAX_WIDER)
            choices = {(more[0], wider), (probes, more[1])} - {(probes, wider)}
            (sure, self.recall), probes, wider = max(
                (recall(*choice), *choice) for choice in choices
            )
        self.probes, self.wider = probes, wider

    def search(
        self, vectors: np.ndarray, query_D: np.ndarray, k: int, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and positions of up to k vectors. mask: (n,) bool, those that may be returned."""
        query = np.ascontiguousarray(query_D, dtype=np.float32)
        return _best(vectors, query, self._candidates(query[None], k, mask)[0], k)

    def _candidates(
        self, queries_QD: np.ndarray, k: int, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """(Q, wider * k) positions, best first by their codes, -1 where there are no more."""
        lib = faiss()
        options: dict[str, Any] = {}
        if mask is not None:
            # faiss reads the lowest bit of a byte first
            options["sel"] = lib.IDSelectorBitmap(
                np.packbits(mask[: self.count], bitorder="little")
            )
        for probes in (self.probes, self.lists):
            inner = lib.SearchParametersIVF(nprobe=probes, **options)
            params = lib.SearchParametersPreTransform(index_params=inner)
            count = min(self.wider * k, self.count)
            places = np.asarray(self.built.search(queries_QD, count, params=params)[1])
            if mask is None or places[:, -1].min() >= 0:
                break  # else too few of the mask lie in the nearest lists: search all of them
        return places


def _best(
    vectors: np.ndarray, query_D: np.ndarray, places: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions of the k best of these positions, by the vectors themselves."""
    import torch

    places = np.sort(places[places >= 0])
    # A fifth of the time of vectors[places].
    part = torch.from_numpy(vectors).index_select(0, torch.from_numpy(places))
    # einsum, as a BLAS would wake its threads for so little.
    scores = np.einsum("nd,d->n", part.float().numpy(), query_D)
    best = np.argsort(-scores, kind="stable")[:k]
    return scores[best], places[best]


def _train(lib: Any, vectors: np.ndarray) -> Any:
    """Train faiss's index on vectors (n, D) float16, with none in it."""
    n, width = vectors.shape
    lists = max(1, min(2 ** round(np.log2(n**0.5)), n // TRAIN_PER_LIST))
    some = _floats(
        vectors[np.sort(np.random.default_rng(0).permutation(n)[: TRAIN_PER_LIST * lists])]
    )
    basis = np.linalg.eigh(some.T @ some)[1][:, ::-1]
    # The directions are those of the uncentred matrix, which preserve products. Their number
    # follows from the variance: what all vectors share does not tell them apart.
    share = np.cumsum((some @ basis).var(axis=0))
    enough = 1 + int(np.searchsorted(share, VARIANCE * share[-1]))
    dims = min(width, max(MIN_DIRECTIONS, -(-enough // 8) * 8))
    turned = lib.LinearTransform(width, dims, False)
    lib.copy_array_to_vector(
        np.ascontiguousarray(basis[:, :dims].T, dtype=np.float32).ravel(), turned.A
    )
    turned.is_trained = True
    quantizer = lib.IndexFlatIP(dims)
    codes = lib.IndexIVFPQFastScan(quantizer, dims, lists, dims, 4, lib.METRIC_INNER_PRODUCT)
    codes.by_residual = True
    codes.cp.niter = codes.pq.cp.niter = ITERATIONS
    x = turned.apply(some)
    codes.train_q1(len(x), lib.swig_ptr(x), False, lib.METRIC_INNER_PRODUCT)
    threads = lib.omp_get_max_threads()
    # Codes are learnt one dimension at a time: threads would wait for each other, ten times as long
    # on a busy machine.
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
    mask: np.ndarray | None = None,
    unsigned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Search exactly.

    Args:
        vectors: (n, D) float16.
        queries_QD: float32.
        k: How many.
        mask: (n,) bool, those that may be returned.
        unsigned: Rank by |product|.

    Returns:
        (Q, k) scores and positions, fewer where there are fewer.
    """
    import torch

    queries = torch.from_numpy(np.ascontiguousarray(queries_QD, dtype=np.float32))
    values = torch.from_numpy(vectors)
    places = None if mask is None else torch.from_numpy(np.flatnonzero(mask))
    total = len(values) if places is None else len(places)
    scores = torch.zeros(len(queries), 0)
    nearest = torch.zeros(len(queries), 0, dtype=torch.int64)
    for start in range(0, total, TILE):
        stop = min(start + TILE, total)
        part = values[start:stop] if places is None else values.index_select(0, places[start:stop])
        similarity = queries @ part.float().T
        similarity = similarity.abs() if unsigned else similarity
        best, near = similarity.topk(min(k, stop - start), dim=1)
        near = near + start if places is None else places[start:stop][near]
        scores, nearest = torch.cat([scores, best], 1), torch.cat([nearest, near], 1)
        if scores.shape[1] > k:
            scores, order = scores.topk(k, dim=1)
            nearest = nearest.gather(1, order)
    return scores.numpy(), nearest.numpy()
