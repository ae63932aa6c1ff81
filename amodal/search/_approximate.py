"""The approximate index of one sense: faiss's IVF lists over 8-bit vectors, a cache of the log that can be made again at any time.

Candidates come from faiss and are ranked by the exact vectors. How many lists are probed is chosen by measurement: the fewest with
which held-out queries find 95 % of their ten nearest neighbours.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.search._log import Log, write_atomically

RECALL = 0.95
NEAREST = 10
QUERIES = 256
WIDER = 4
"""Candidates taken for each result wanted."""
TRAINED = 40
"""Vectors for each list that faiss learns from; it warns of fewer than 39, and learns for most of the time that building takes."""
TILE = 8192
"""Vectors that exact search makes float32 at a time: they stay in the processor's cache, which makes it ten times as fast."""


def faiss():
    try:
        import faiss as module
    except ImportError:
        raise AmodalError(
            "an index of this size is searched by faiss, which is not installed: pip install 'amodal[search]'"
        ) from None
    return module


class Approximate:
    """built: faiss's index over the first `count` vectors of the log; probes: lists to look into; recall: measured."""

    def __init__(self, built, count: int, trained: int, probes: int, recall: float):
        self.built, self.count, self.trained, self.probes, self.recall = built, count, trained, probes, recall

    @staticmethod
    def of(log: Log, source: str, queries: np.ndarray) -> Approximate:
        """The cache of a sense, brought up to date: read if there is one, extended by new vectors, made anew if there is none or the
        log has more than doubled since. queries (n, D) float32 are what probing is tuned on."""
        lib = faiss()
        file, meta = log.file(source, "faiss"), log.file(source, "faiss.json")
        vectors, _ = log.vectors(source)
        found = Approximate._read(lib, file, meta)
        if found is not None and found.count == len(vectors):
            return found
        if found is None or found.count > len(vectors) or len(vectors) > 2 * found.trained:
            found = Approximate._build(lib, vectors)
        else:
            for start in range(found.count, len(vectors), 65536):
                found.built.add(vectors[start : start + 65536].astype(np.float32))
            found.count = len(vectors)
        found._tune(vectors, queries)
        try:
            write_atomically(file, lib.serialize_index(found.built).tobytes())
            content = {"count": found.count, "trained": found.trained, "probes": found.probes, "recall": found.recall}
            write_atomically(meta, json.dumps(content).encode())
        except OSError:
            file.unlink(missing_ok=True)  # a cache; searching goes on without it
        return found

    @staticmethod
    def _read(lib, file: Path, meta: Path) -> Approximate | None:
        try:
            built = lib.deserialize_index(np.frombuffer(file.read_bytes(), dtype=np.uint8))
            about = json.loads(meta.read_text())
            made = Approximate(built, about["count"], about["trained"], about["probes"], about["recall"])
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
        return made if built.ntotal == made.count else None  # the two files are written one after the other

    @staticmethod
    def _build(lib, vectors: np.ndarray) -> Approximate:
        n, width = vectors.shape
        lists = max(1, min(2 ** round(np.log2(4 * n**0.5)), n // 39))  # faiss wants 39 vectors for each list it learns
        quantizer = lib.IndexFlatIP(width)
        built = lib.IndexIVFScalarQuantizer(
            quantizer, width, lists, lib.ScalarQuantizer.QT_8bit, lib.METRIC_INNER_PRODUCT
        )
        some = np.random.default_rng(0).permutation(n)[: TRAINED * lists]
        built.train(vectors[np.sort(some)].astype(np.float32))
        for start in range(0, n, 65536):
            built.add(vectors[start : start + 65536].astype(np.float32))
        return Approximate(built, n, n, 1, 0.0)

    def _tune(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        queries = queries[:QUERIES]
        near = exact(vectors, queries, NEAREST)[1]
        self.probes = 1
        while True:
            found = [self.search(vectors, q, NEAREST)[1] for q in queries]
            self.recall = float(np.mean([len(np.intersect1d(a, b)) / max(len(b), 1) for a, b in zip(found, near)]))
            if self.recall >= RECALL or self.probes >= self.built.nlist:
                return
            self.probes = min(2 * self.probes, self.built.nlist)

    def search(
        self, vectors: np.ndarray, query_D: np.ndarray, k: int, kept: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and places of up to k vectors. kept: (n,) bool, those that may be returned."""
        lib = faiss()
        options = {"nprobe": self.probes}
        if kept is not None:
            options["sel"] = lib.IDSelectorBitmap(np.packbits(kept[: self.count], bitorder="little"))
        _, at = self.built.search(
            query_D[None].astype(np.float32), WIDER * k, params=lib.SearchParametersIVF(**options)
        )
        at = np.sort(at[0][at[0] >= 0])
        scores = vectors[at].astype(np.float32) @ query_D.astype(np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        return scores[best], at[best]


def exact(
    vectors: np.ndarray, queries_QD: np.ndarray, k: int, kept: np.ndarray | None = None, unsigned: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, k) scores and places of the nearest of `vectors` (n, D) float16; fewer where there are fewer. kept: (n,) bool; unsigned: by
    the size of the product."""
    import torch

    queries = torch.from_numpy(np.ascontiguousarray(queries_QD, dtype=np.float32))
    values = torch.from_numpy(vectors)
    places = None if kept is None else torch.from_numpy(np.flatnonzero(kept))
    total = len(values) if places is None else len(places)
    scores, at = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for start in range(0, total, TILE):
        stop = min(start + TILE, total)
        part = values[start:stop] if places is None else values[places[start:stop]]
        similarity = queries @ part.float().T
        similarity = similarity.abs() if unsigned else similarity
        best, near = similarity.topk(min(k, stop - start), dim=1)
        near = near + start if places is None else places[start:stop][near]
        scores, at = torch.cat([scores, best], 1), torch.cat([at, near], 1)
        if scores.shape[1] > k:
            scores, order = scores.topk(k, dim=1)
            at = at.gather(1, order)
    return scores.numpy(), at.numpy()
