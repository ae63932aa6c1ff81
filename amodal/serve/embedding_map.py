"""All records of an index in memory, as the page of `amodal view` shows them: where they lie, who
is alike, who stands apart."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock

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

MOST = 20_000
"""Points on a map; of more records that many are drawn by chance, the same each time."""
KEPT = 64
"""Answers held in memory."""
PAIRS = 1000
"""Records that are nearly the same, listed at most."""
NEAR = 10
"""Neighbours that agreement and outliers look at."""
TILE = 65_536
"""Vectors that are compared at once."""
SUBSETS = 5
"""Fields of which all subsets are tried; of more, those that have one field, or lack one."""


class EmbeddingMap:
    """index: its records in their order are numbered from 0; cache: a folder for what takes long to
    compute; tested: keys of the records that probes are tested on, they learn from the others;
    most: points on a map. `unsigned` encoders: near is a large |cosine|, see `Embedded.abs_cosine`.
    """

    def __init__(
        self,
        index: Index,
        cache: Path,
        *,
        tested: Iterable[str] = (),
        most: int = MOST,
        unsigned: bool = False,
    ):
        self.index, self.cache, self.unsigned = index, cache, unsigned
        self.keys = index.keys
        self.at = {key: i for i, key in enumerate(self.keys)}
        alive = np.array([index.number[key] for key in self.keys], dtype=np.int64)
        place = np.full(len(index.alive), -1, dtype=np.int64)
        place[alive] = np.arange(len(alive))
        self.labels = {name: values[alive] for name, values in index.labels.items()}
        columns = {source: _column(*index.one_each(source), place) for source in index.sources}
        self.vectors = Embeddings(columns, len(self.keys))  # unit, float16
        self.tested = np.zeros(len(self.keys), dtype=bool)
        self.tested[[self.at[key] for key in tested if key in self.at]] = True
        self.shown = np.arange(len(self.keys))
        if len(self.keys) > most:
            self.shown = np.sort(
                np.random.default_rng(0).choice(len(self.keys), most, replace=False)
            )
        sums = (f"{s}{columns[s].values.sum(dtype=torch.float64):.4f}" for s in columns)
        said = "\n".join([index.fingerprint, *sums, *self.keys])
        self.stamp = hashlib.blake2b(
            said.encode("utf-8", "surrogatepass"), digest_size=6
        ).hexdigest()
        self._worker = ThreadPoolExecutor(
            2, "amodal-atlas"
        )  # so that others need not wait for UMAP
        self._asking = Lock()
        self._jobs: dict[tuple, Future] = {}
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
        found = Column(normalize(found.values, dim=1), torch.from_numpy(among_or_all)[found.rows])
        if among is None:
            self._last = named, found
        return found

    def vector(self, number: int, fields: Sequence[str] = ()) -> Tensor | None:
        """(D,) of one record, as in `column`; None if it has none of these fields."""
        found = self.column(fields, np.array([number]))
        return found.values[0] if len(found) else None

    def present(self, field: str) -> np.ndarray:
        """(N,) bool: which records have it."""
        there = np.zeros(len(self.keys), dtype=bool)
        if field not in self.fields:
            raise unknown("field of this index", field, self.fields)
        there[self.vectors[field].rows.numpy()] = True
        return there

    @cached_property
    def fullest(self) -> int:
        """The first of the records that have most fields."""
        return int(np.sum([self.present(s) for s in self.fields], axis=0).argmax())

    def later(self, verb: str, *given) -> object | None:
        """What `getattr(self, verb)(*given)` returns, computed once in another thread; None until
        it is there."""
        with self._asking:
            job = self._jobs.get((verb, *given))
            if job is None:
                for old in [key for key, job in self._jobs.items() if job.done()][:-KEPT]:
                    del self._jobs[old]
                job = self._jobs[verb, *given] = self._worker.submit(getattr(self, verb), *given)
        return job.result() if job.done() else None

    @property
    def way(self) -> str:
        """How maps are drawn: "umap" where it is installed, else "pca"."""
        return "umap" if _umap() else "pca"

    def of_shown(self, tell: Callable[[str, list[str]], np.ndarray], name: str) -> np.ndarray:
        """What `tell(name, keys)` says of the shown records."""
        return tell(name, [self.keys[i] for i in self.shown])

    def layout(self, field: str = "", way: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(n,) numbers of shown records and (n, 2) float32 where they lie, in 0 to 1; field "":
        fused; way: "umap" or "pca", the best there is unless given. Kept on disk."""
        way = way or self.way
        file = self.cache / f"map-{_safe(field or FUSED)}-{way}-{self.stamp}-{len(self.shown)}.npz"
        if not file.exists():
            part = self._of_shown([field] if field else [])
            np.savez(_draft(file), numbers=part.rows.numpy(), flat=flat(part.values, way))
            _draft(file).replace(file)
        with np.load(file, allow_pickle=False) as kept:
            return kept["numbers"], kept["flat"]

    def stand_in(self, number: int, field: str = "") -> int:
        """The record by which one is found on the map: itself, or of those drawn the one nearest to
        it; -1 if it lacks the field."""
        fields = [field] if field else []
        mine = self.vector(number, fields)
        if mine is None:
            return -1
        drawn = self._of_shown(fields)
        if (drawn.rows == number).any():
            return number
        cosine = drawn.values @ mine
        return (
            int(drawn.rows[(cosine.abs() if self.unsigned else cosine).argmax()])
            if len(drawn)
            else -1
        )

    def agreement(self) -> np.ndarray:
        """(N,) float32: of the nearest neighbours by one field, the share that are so by another as
        well, mean over the pairs of fields a record has; NaN for records that are not shown or have
        one field. Kept on disk."""
        file = self.cache / f"agreement-{self.stamp}-{len(self.shown)}.npy"
        if file.exists():
            return np.load(file, allow_pickle=False)
        total, count = np.zeros(len(self.keys), np.float32), np.zeros(len(self.keys), np.float32)
        columns = {s: self._of_shown([s]) for s in self.fields}
        for i, a in enumerate(self.fields):
            for b in self.fields[i + 1 :]:
                rows = np.intersect1d(columns[a].rows.numpy(), columns[b].rows.numpy())
                if len(rows) < 2:
                    continue
                k = min(NEAR, len(rows) - 1)
                near = [
                    nearest(c.values[torch.from_numpy(np.isin(c.rows.numpy(), rows))], k)
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
        self, query_D: Tensor, fields: Sequence[str], k: int, beside: int = -1
    ) -> list[tuple[int, float, str]]:
        """(number, cosine, field that matched) of the k records nearest to a query, best first;
        fields that are compared, all unless given. beside: a record to leave out."""
        fields = fields or self.fields
        if len(self.keys) <= self.index.threshold or any(map(self.index.several, fields)):
            found = self.index.nearest(query_D, k=k + 1, fields=fields, unsigned=self.unsigned)
            return [(self.at[hit[0]], *hit[1:3]) for hit in found if self.at[hit[0]] != beside][:k]
        # what the index would make first, to search approximately, takes minutes; the vectors are
        # in memory, and one person asks
        query, best = normalize(query_D.float(), dim=0), {}
        for field in fields:
            column = self.vectors[field]
            score = torch.cat([part.float() @ query for part in column.values.split(TILE)])
            score, at = (score.abs() if self.unsigned else score).topk(min(k + 1, len(score)))
            for number, value in zip(column.rows[at].tolist(), score.tolist()):
                if number != beside and value > best.get(number, (-torch.inf, ""))[0]:
                    best[number] = value, field
        return [(n, *best[n]) for n in sorted(best, key=lambda n: (-best[n][0], n))][:k]

    def alike(self, number: int, fields: Sequence[str], k: int) -> list[tuple[int, float]]:
        """(number, cosine) of the records nearest to one of them, by the fused vectors of these
        fields alone."""
        mine = self.vector(number, fields)
        if mine is None:
            return []
        column = self.column(fields)
        cosine = column.values @ mine
        cosine = cosine.abs() if self.unsigned else cosine
        score, at = cosine.topk(min(k + 1, len(column)))
        found = zip(column.rows[at].tolist(), score.tolist())
        return [(n, s) for n, s in found if n != number][:k]

    def probe(self, fields: tuple[str, ...], label: str) -> dict:
        """How well a vote of nearest neighbours tells a label of those `tested` records that are
        shown from these fields: {metric, value, chance, n}, {} where there is nothing to test.
        Raises AmodalError for a label that is none."""
        if label not in self.labels:
            raise unknown("label", label, self.labels)
        column, values = self._of_shown(fields), self.labels[label]
        test = torch.from_numpy(self.tested[column.rows.numpy()])
        learnt, asked = (Column(column.values[m], column.rows[m]) for m in (~test, test))
        found = measure(neighbours, learnt, values, {"it": asked}, values).get("it", [])
        return found[0] if found else {}

    def retrieval(self, fields: tuple[str, ...], at: int = 10) -> list[dict]:
        """How often the right record is among the `at` nearest, of the `tested` records that are
        shown: {source, target, value, chance, n} for every two of these fields, and for all the
        others together, source "", where there are more. Records whose vectors are equal are
        equally right."""
        asked = self.shown[self.tested[self.shown]]
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
                row = ranked(a, b, same, (at,), self.unsigned)[0]
                rows.append(
                    {"source": source[0] if len(source) == 1 else "", "target": target} | row
                )
        return rows

    def missing(self, label: str) -> list[dict]:
        """Rows of `probe` with `source`, the fields that are left, for each subset of the fields,
        the largest first."""
        sizes = range(len(self.fields), 0, -1)
        if len(self.fields) > SUBSETS:
            sizes = sorted({len(self.fields), len(self.fields) - 1, 1}, reverse=True)
        subsets = [left for size in sizes for left in itertools.combinations(self.fields, size)]
        found = {left: self.probe(left, label) for left in subsets}
        return [
            {"source": " + ".join(left), "label": label} | row for left, row in found.items() if row
        ]

    def outliers(self, field: str = "", most: int = 200) -> list[tuple[int, float]]:
        """(number, mean cosine to its nearest neighbours) of the shown records that are least like
        any other, worst first."""
        part = self._of_shown([field] if field else [])
        if len(part) <= 1:
            return []
        unit = part.values
        near = nearest(unit, min(NEAR, len(part) - 1))
        mean = torch.einsum("nd,nkd->nk", unit, unit[near]).mean(1)
        score, at = (-mean).topk(min(most, len(part)))
        return list(zip(part.rows[at].tolist(), (-score).tolist()))

    def twins(
        self, field: str = "", least: float = 0.99, most: int = PAIRS
    ) -> list[tuple[int, int, float]]:
        """(number, number, cosine) of pairs of shown records that are nearly the same, the most
        alike first; least: above 0."""
        part = self._of_shown([field] if field else [])
        unit, found = part.values, []
        for start in range(0, len(unit), 1024):
            similar = unit[start : start + 1024] @ unit.T
            similar = similar.triu(
                start + 1
            )  # each pair once; what is below becomes 0, which is under any `least`
            score, at = similar.flatten().topk(min(most, similar.numel()))
            score, at = score[score >= least], at[score >= least]
            a, b = part.rows[start + at // len(unit)], part.rows[at % len(unit)]
            found = sorted(
                found + list(zip(a.tolist(), b.tolist(), score.tolist())), key=lambda pair: -pair[2]
            )[:most]
        return found

    def _of_shown(self, fields: Sequence[str]) -> Column:
        return self.column(fields, self.shown)


def flat(x_ND: Tensor, way: str) -> np.ndarray:
    """(N, 2) float32 in 0 to 1: "umap" of unit vectors where there are enough of them, else the
    first two principal components."""
    unit = normalize(x_ND.float(), dim=1)
    if way == "umap" and len(unit) > 50:
        import umap

        found = torch.from_numpy(
            umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(unit.numpy())
        )
    else:
        found = principal(unit)
    low, high = found.amin(0), found.amax(0)
    return ((found - low) / (high - low).clamp_min(1e-9)).float().numpy()


def principal(x_ND: Tensor) -> Tensor:
    """(N, 2): coordinates along the two directions in which rows differ most; each is turned so
    that its largest entry is positive."""
    x = x_ND - x_ND.mean(0)
    _, axes = torch.linalg.eigh(x.T @ x)
    axes = axes[:, -2:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    found = x @ (axes * largest.sign())
    return found if found.shape[1] == 2 else torch.nn.functional.pad(found, (0, 2 - found.shape[1]))


def _umap() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None


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
        return Column(column.values.float(), column.rows)
    at = np.minimum(np.searchsorted(rows, numbers), len(rows) - 1)
    there = np.flatnonzero(rows[at] == numbers)
    return Column(column.values[torch.from_numpy(at[there])].float(), torch.from_numpy(there))


def _draft(file: Path, suffix: str = ".npz") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_name(f".{file.stem}.draft{suffix}")


def _safe(name: str) -> str:
    return (
        "".join(c if c.isalnum() else "_" for c in name)
        + hashlib.blake2b(name.encode(), digest_size=2).hexdigest()
    )
