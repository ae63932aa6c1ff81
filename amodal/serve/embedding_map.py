"""The records of an index in memory, as `amodal view` shows them: map, neighbours, near
duplicates, outliers, probes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.diagnose.neighbours import nearest
from amodal.evaluate.labels import measure
from amodal.evaluate.protocols.knn import neighbours
from amodal.evaluate.protocols.retrieval import MIN_RECORDS, ranked
from amodal.search import Index
from amodal.serve.projection import among_nearest, best_projection, project_2d

MAX_DRAWN = 1_000_000
"""Points on a map; of more records that many are drawn by chance, the same each time."""
MAX_COMPARED = 20_000
"""Records that are all compared with each other, or fitted by UMAP; of more, that many of those
that are drawn, by chance."""
MAX_JOBS = 64
"""Results of background jobs in memory."""
MAX_PAIRS = 1000
"""Near duplicates that are listed."""
NEIGHBOURS = 10
"""Neighbours that agreement and outliers are computed from."""
TILE = 65_536
"""Vectors that are compared at once."""
SUBSETS = 5
"""Fields of which all subsets are tried; of more, those that have one field, or lack one."""


class EmbeddingMap:
    """Computations on the vectors of an index.

    Args:
        index: Its records in their order are numbered from 0.
        cache: A folder for what takes long to compute.
        test_keys: Keys of the records that probes are tested on; they learn from the others.
        max_drawn: Points on a map.
        max_compared: Records that are all compared with each other.
        unsigned: Near is a large |cosine|, see `Embedded.unsigned`.
    """

    def __init__(
        self,
        index: Index,
        cache: Path,
        *,
        test_keys: Iterable[str] = (),
        max_drawn: int = MAX_DRAWN,
        max_compared: int = MAX_COMPARED,
        unsigned: bool = False,
    ):
        self.index, self.cache, self.unsigned = index, cache, unsigned
        self.keys = index.keys
        self.number_of = {key: i for i, key in enumerate(self.keys)}
        alive = np.array([index.number[key] for key in self.keys], dtype=np.int64)
        place = np.full(len(index.alive), -1, dtype=np.int64)
        place[alive] = np.arange(len(alive))
        self.labels = {name: values[alive] for name, values in index.labels.items()}
        columns = {source: _column(*index.mean_vectors(source), place) for source in index.sources}
        self.vectors = Embeddings(columns, len(self.keys))  # unit, float16
        self.is_test = np.zeros(len(self.keys), dtype=bool)
        self.is_test[[self.number_of[key] for key in test_keys if key in self.number_of]] = True
        self.drawn = _some(np.arange(len(self.keys)), max_drawn)
        self.compared = _some(self.drawn, max_compared)
        sums = (f"{s}{columns[s].flat.sum(dtype=torch.float64):.4f}" for s in columns)
        content = "\n".join([index.fingerprint, *sums, *self.keys])
        self.stamp = hashlib.blake2b(
            content.encode("utf-8", "surrogatepass"), digest_size=6
        ).hexdigest()
        self._worker = ThreadPoolExecutor(2, "amodal-map")  # so that others need not wait for UMAP
        self._asking = Lock()
        self._jobs: dict[tuple[Hashable, ...], Future[Any]] = {}
        self._last: tuple[tuple[str, ...], Column] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Those that values have, without the network's own fused vectors."""
        return tuple(s for s in self.vectors.columns if s != FUSED)

    def column(self, fields: Sequence[str] = (), among: np.ndarray | None = None) -> Column:
        """(n, D) float32 unit vectors of the records that have any of these fields: the mean of
        theirs where they have several; none given: fused. among: ascending numbers of records,
        others are left out. Raises AmodalError for fields that are none."""
        for field in fields:
            if field not in self.fields:
                raise unknown("field of this index", field, self.fields)
        if fields:
            named = tuple(dict.fromkeys(fields))
        else:
            named = (FUSED,) if FUSED in self.vectors.columns else self.fields
        last = self._last
        if among is None and last is not None and last[0] == named:
            return last[1]
        among_or_all = np.arange(len(self.keys)) if among is None else among
        parts = {s: _among(self.vectors[s], among_or_all) for s in named}
        found = (
            parts[named[0]]
            if len(named) == 1
            else Embeddings(parts, len(among_or_all)).fused(list(named))
        )
        found = Column(normalize(found.flat, dim=1), torch.from_numpy(among_or_all)[found.rows])
        if among is None:
            self._last = named, found
        return found

    def vector(self, number: int, fields: Sequence[str] = ()) -> Tensor | None:
        """(D,) of one record, as in `column`; None if it has none of these fields."""
        found = self.column(fields, np.array([number]))
        return found.flat[0] if len(found) else None

    def present(self, field: str) -> np.ndarray:
        """(N,) bool: which records have it."""
        there = np.zeros(len(self.keys), dtype=bool)
        if field not in self.fields:
            raise unknown("field of this index", field, self.fields)
        there[self.vectors[field].rows.numpy()] = True
        return there

    @cached_property
    def most_complete(self) -> int:
        """The first of the records that have most fields."""
        return int(np.sum([self.present(s) for s in self.fields], axis=0).argmax())

    def in_background(self, method: str | Callable[..., object], *args: Hashable) -> Any | None:
        """The result of a method of this object, or of another one, computed once in another
        thread; None until it is there."""
        with self._asking:
            job = self._jobs.get((method, *args))
            if job is None:
                for old in [key for key, job in self._jobs.items() if job.done()][:-MAX_JOBS]:
                    del self._jobs[old]
                work = getattr(self, method) if isinstance(method, str) else method
                job = self._jobs[method, *args] = self._worker.submit(work, *args)
        return job.result() if job.done() else None

    @property
    def projection(self) -> str:
        """The best projection that is installed: "umap", else "pca"."""
        return best_projection()

    def attribute(self, values: Callable[[str, list[str]], np.ndarray], name: str) -> np.ndarray:
        """`values(name, keys)` of the drawn records."""
        return values(name, [self.keys[i] for i in self.drawn])

    def layout(self, field: str = "", projection: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Project the drawn records on a plane; cached on disk.

        UMAP is fitted to the compared ones; of more, each other one lies among those it is nearest
        to.

        Args:
            field: Whose vectors; "" for the fused ones.
            projection: "umap" or "pca"; the best that is installed if "".

        Returns:
            (n,) numbers of records, and (n, 2) float32 coordinates in 0 to 1.
        """
        projection = projection or self.projection
        file = self.cache / (
            f"map-{_safe(field or FUSED)}-{projection}-{self.stamp}-{len(self.drawn)}.npz"
        )
        if not file.exists():
            part = self.column([field] if field else [], self.drawn)
            fitted = torch.from_numpy(np.isin(part.rows.numpy(), self.compared))
            if projection == "pca" or fitted.all():
                flat = project_2d(part.flat, projection)
            else:
                flat = among_nearest(part.flat, fitted, project_2d(part.flat[fitted], projection))
            np.savez(_draft(file), numbers=part.rows.numpy(), flat=flat)
            _draft(file).replace(file)
        with np.load(file, allow_pickle=False) as saved:
            return saved["numbers"], saved["flat"]

    def nearest_drawn(self, number: int, field: str = "") -> int:
        """The record that stands for one on the map: itself, or the nearest that is drawn; -1 if it
        lacks the field."""
        fields = [field] if field else []
        mine = self.vector(number, fields)
        if mine is None:
            return -1
        drawn = self.column(fields, self.drawn)
        if (drawn.rows == number).any():
            return number
        if not len(drawn):
            return -1
        cosine = drawn.flat @ mine
        return int(drawn.rows[(cosine.abs() if self.unsigned else cosine).argmax()])

    def agreement(self) -> np.ndarray:
        """(N,) float32: of the nearest neighbours by one field, the share that are so by another as
        well, mean over the pairs of fields a record has; NaN for records that are not compared or
        have one field. Cached on disk."""
        file = self.cache / f"agreement-{self.stamp}-{len(self.compared)}.npy"
        if file.exists():
            saved: np.ndarray = np.load(file, allow_pickle=False)
            return saved
        total, count = np.zeros(len(self.keys), np.float32), np.zeros(len(self.keys), np.float32)
        columns = {s: self._of_compared([s]) for s in self.fields}
        for i, a in enumerate(self.fields):
            for b in self.fields[i + 1 :]:
                rows = np.intersect1d(columns[a].rows.numpy(), columns[b].rows.numpy())
                if len(rows) < 2:
                    continue
                k = min(NEIGHBOURS, len(rows) - 1)
                near = [
                    nearest(c.flat[torch.from_numpy(np.isin(c.rows.numpy(), rows))], k)
                    for c in (columns[a], columns[b])
                ]
                shared = (near[0][:, :, None] == near[1][:, None, :]).any(2).float().mean(1)
                total[rows] += shared.numpy()
                count[rows] += 1
        found = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
        np.save(_draft(file, ".npy"), found)
        _draft(file, ".npy").replace(file)
        return found

    def near(
        self, query_D: Tensor, fields: Sequence[str], k: int, exclude: int = -1
    ) -> list[tuple[int, float, str]]:
        """(number, cosine, field that matched) of the k records nearest to a query, best first.
        fields: that are compared; all if empty. exclude: a record to leave out."""
        fields = fields or self.fields
        if len(self.keys) <= self.index.threshold or any(map(self.index.is_multi_vector, fields)):
            found = self.index.nearest(query_D, k=k + 1, fields=fields, unsigned=self.unsigned)
            return [
                (self.number_of[hit[0]], *hit[1:3])
                for hit in found
                if self.number_of[hit[0]] != exclude
            ][:k]
        # what the index would make first, to search approximately, takes minutes; the vectors are
        # in memory, and one person asks
        query = normalize(query_D.float(), dim=0)
        best: dict[int, tuple[float, str]] = {}
        for field in fields:
            column = self.vectors[field]
            score = torch.cat([part.float() @ query for part in torch.split(column.flat, TILE)])
            score, at = (score.abs() if self.unsigned else score).topk(min(k + 1, len(score)))
            for number, value in zip(column.rows[at].tolist(), score.tolist()):
                if number != exclude and value > best.get(number, (-torch.inf, ""))[0]:
                    best[number] = value, field
        return [(n, *best[n]) for n in sorted(best, key=lambda n: (-best[n][0], n))][:k]

    def similar_to(self, number: int, fields: Sequence[str], k: int) -> list[tuple[int, float]]:
        """(number, cosine) of the records nearest to one of them, by the fused vectors of these
        fields alone."""
        mine = self.vector(number, fields)
        if mine is None:
            return []
        column = self.column(fields)
        cosine = column.flat @ mine
        cosine = cosine.abs() if self.unsigned else cosine
        score, at = cosine.topk(min(k + 1, len(column)))
        found = zip(column.rows[at].tolist(), score.tolist())
        return [(n, s) for n, s in found if n != number][:k]

    def probe(self, fields: tuple[str, ...], label: str) -> dict[str, Any]:
        """Predict a label by the nearest neighbours in these fields, on the compared test records.

        Returns:
            {metric, value, chance, n}; {} where there is nothing to test.

        Raises:
            AmodalError: For an unknown label.
        """
        if label not in self.labels:
            raise unknown("label", label, self.labels)
        column, values = self._of_compared(fields), self.labels[label]
        test = torch.from_numpy(self.is_test[column.rows.numpy()])
        learnt, asked = (Column(column.flat[m], column.rows[m]) for m in (~test, test))
        rows = measure(neighbours, learnt, values, {"it": asked}, values).get("it", [])
        result: dict[str, Any] = rows[0] if rows else {}
        return result

    def retrieval(self, fields: tuple[str, ...], k: int = 10) -> list[dict[str, Any]]:
        """Recall at k of retrieval between fields, on the compared test records.

        Returns:
            {source, target, value, chance, n} for every two of these fields, and, where there are
            more, for all the others together (source ""). Records whose vectors are equal are
            equally right.
        """
        asked = self.compared[self.is_test[self.compared]]
        rows = []
        for target in fields:
            others = [s for s in fields if s != target]
            for source in [*((s,) for s in others), *([tuple(others)] if len(others) > 1 else [])]:
                pair = Embeddings(
                    {"a": self.column(source, asked), "b": self.column([target], asked)},
                    len(self.keys),
                )
                a, b = pair.pair("a", "b")
                if len(a) < MIN_RECORDS:
                    continue
                same = torch.unique(b, dim=0, return_inverse=True)[1]
                row = ranked(a, b, same, (k,), self.unsigned)[0]
                rows.append(
                    {"source": source[0] if len(source) == 1 else "", "target": target} | row
                )
        return rows

    def missing(self, label: str) -> list[dict[str, Any]]:
        """Rows of `probe` with `source`, the fields that are left, for each subset of the fields,
        the largest first."""
        sizes = list(range(len(self.fields), 0, -1))
        if len(self.fields) > SUBSETS:
            sizes = sorted({len(self.fields), len(self.fields) - 1, 1}, reverse=True)
        subsets = [left for size in sizes for left in itertools.combinations(self.fields, size)]
        found = {left: self.probe(left, label) for left in subsets}
        return [
            {"source": " + ".join(left), "label": label} | row for left, row in found.items() if row
        ]

    def outliers(self, field: str = "", most: int = 200) -> list[tuple[int, float]]:
        """(number, mean cosine to its nearest neighbours) of the compared records that are least
        like any other, worst first."""
        part = self._of_compared([field] if field else [])
        if len(part) <= 1:
            return []
        unit = part.flat
        near = nearest(unit, min(NEIGHBOURS, len(part) - 1))
        mean = torch.einsum("nd,nkd->nk", unit, unit[near]).mean(1)
        score, at = (-mean).topk(min(most, len(part)))
        return list(zip(part.rows[at].tolist(), (-score).tolist()))

    def near_duplicates(
        self, field: str = "", least: float = 0.99, most: int = MAX_PAIRS
    ) -> list[tuple[int, int, float]]:
        """(number, number, cosine) of pairs of compared records that are nearly the same, the most
        alike first. least: the cosine, above 0."""
        part = self._of_compared([field] if field else [])
        unit = part.flat
        found: list[tuple[int, int, float]] = []
        for start in range(0, len(unit), 1024):
            similar = unit[start : start + 1024] @ unit.T
            # Each pair once: what is below the diagonal becomes 0, which is under any `least`.
            similar = similar.triu(start + 1)
            score, at = similar.flatten().topk(min(most, similar.numel()))
            score, at = score[score >= least], at[score >= least]
            a, b = part.rows[start + at // len(unit)], part.rows[at % len(unit)]
            found = sorted(
                found + list(zip(a.tolist(), b.tolist(), score.tolist())), key=lambda pair: -pair[2]
            )[:most]
        return found

    def _of_compared(self, fields: Sequence[str]) -> Column:
        return self.column(fields, self.compared)


def _some(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them by chance, ascending, the same each time."""
    chosen = np.random.default_rng(0).permutation(numbers)[:most]
    return np.sort(chosen) if len(numbers) > most else numbers


def _column(vectors: np.ndarray, rows: np.ndarray, place: np.ndarray) -> Column:
    """Vectors of living records by their new numbers, in half precision, as they are stored: there
    may be a million."""
    new = place[rows]
    order = np.argsort(new, kind="stable")
    order = order[new[order] >= 0]
    return Column(torch.from_numpy(np.asarray(vectors)[order]), torch.from_numpy(new[order]))


def _among(column: Column, numbers: np.ndarray) -> Column:
    """float32 vectors of the records of these ascending numbers, by their place among them."""
    rows = column.rows.numpy()
    if not len(rows):
        return Column(column.flat.float(), column.rows)
    at = np.minimum(np.searchsorted(rows, numbers), len(rows) - 1)
    there = np.flatnonzero(rows[at] == numbers)
    return Column(column.flat[torch.from_numpy(at[there])].float(), torch.from_numpy(there))


def _draft(file: Path, suffix: str = ".npz") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_name(f".{file.stem}.draft{suffix}")


def _safe(name: str) -> str:
    return (
        "".join(c if c.isalnum() else "_" for c in name)
        + hashlib.blake2b(name.encode(), digest_size=2).hexdigest()
    )
