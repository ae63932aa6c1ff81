"""The index in a folder of this machine: exact search over float16 vectors, faiss where there are
many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.nn.encoder import Encoder
from amodal.search._approximate import MIN_VECTORS, Approximate, exact
from amodal.search._log import Log
from amodal.search._maxsim import Lists, best_match, top_records
from amodal.search.engine import Engine, Match, other_encoder
from amodal.search.engine import Labels as RecordLabels
from amodal.search.filter import Labels, Where, allowed
from amodal.search.records import column_of

THRESHOLD = 100_000
SELECTIVE = 0.02
"""Share of records that pass a filter below which search is exact, which is then as quick."""


class Index(Engine):
    """An index in an append-only log.

    Args:
        path: The folder.
        encoder: See `Engine`.
        fingerprint: See `Engine`.
        threshold: Vectors of one field up to which search is exact (as it always is for fewer than
            1,024); beyond it uses faiss.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        fingerprint: str = "",
        threshold: int = THRESHOLD,
    ):
        super().__init__(path, encoder, fingerprint)
        self.path = Path(path)
        self.threshold = threshold
        self.log = Log(self.path)
        made_by = self.log.manifest.get("fingerprint", "")
        if self.log.manifest and fingerprint and made_by and made_by != fingerprint:
            raise other_encoder(
                self.path, made_by, fingerprint, f"remove {self.path}, or index into another folder"
            )
        self._load()

    @staticmethod
    def open(
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        fingerprint: str = "",
        threshold: int = THRESHOLD,
    ) -> Index:
        """Open the index in a folder; an empty one if there is none yet. Raises AmodalError if
        another encoder made it."""
        return Index(path, encoder=encoder, fingerprint=fingerprint, threshold=threshold)

    def _load(self) -> None:
        self._records = self.log.records()
        self.alive = np.ones(len(self._records), dtype=bool)
        self.alive[self.log.dead()] = False
        self.number = {self._records[i]["key"]: i for i in np.flatnonzero(self.alive).tolist()}
        self._changed()

    def _changed(self) -> None:
        self._labels: Labels | None = None
        self._mapped: dict[str, tuple[np.ndarray, np.ndarray, bool]] = {}
        self._approximate: dict[str, Approximate] = {}

    def __len__(self) -> int:
        """Records in it."""
        return len(self.number)

    def __contains__(self, key: str) -> bool:
        return key in self.number

    @property
    def keys(self) -> list[str]:
        return list(self.number)

    @property
    def sources(self) -> list[str]:
        return self.log.sources

    def is_multi_vector(self, field: str) -> bool:
        return self.log.is_multi_vector(field)

    @property
    def width(self) -> int:
        return self.log.width

    @property
    def labels(self) -> Labels:
        """label -> (N,) str objects with None, or float64 with NaN where missing, of all records,
        deleted ones too."""
        if self._labels is None:
            names = dict.fromkeys(name for r in self._records for name in r["labels"])
            self._labels = Labels(
                {n: column_of([r["labels"].get(n) for r in self._records]) for n in names}
            )
        return self._labels

    # Changing it

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.log.writing():
            self._load()
            yield
            self._tidy()

    def stamps(self, keys: Sequence[str]) -> dict[str, str]:
        return {k: self._records[self.number[k]]["stamp"] for k in keys if k in self.number}

    def name_of(self, key: str) -> str:
        return str(self._records[self.number[key]].get("name", ""))

    def keys_except(self, keys: set[str]) -> set[str]:
        return set(self.number) - keys

    def record_vectors(self, key: str) -> dict[str, np.ndarray]:
        number = self.number[key]
        vectors: dict[str, np.ndarray] = {}
        for field in self.sources:
            lists = self.log.lists(field)
            span = lists.span_of(number)
            if span.stop > span.start:
                vectors[field] = np.asarray(lists.values[span], dtype=np.float32)
        return vectors

    def put(
        self,
        keys: list[str],
        vectors: dict[str, Lists],
        stamps: list[str],
        labels: list[RecordLabels],
    ) -> None:
        if not self.log.manifest:
            self.log.start(
                self.fingerprint, next((lists.values.shape[1] for lists in vectors.values()), 0)
            )
        first = len(self._records)
        records = [
            {"key": k, "stamp": s, "labels": v} | ({"name": n} if (n := self.names.get(k)) else {})
            for k, s, v in zip(keys, stamps, labels)
        ]
        added = {
            source: replace(lists, rows=lists.rows + first) for source, lists in vectors.items()
        }
        dead = [self.number[k] for k in keys if k in self.number]
        self.log.append(records, added, dead)
        self._records += records
        self.alive = np.concatenate([self.alive, np.ones(len(records), dtype=bool)])
        self.alive[dead] = False
        for key in keys:
            # A key that is replaced goes to the end, as it does when the log is read.
            self.number.pop(key, None)
        self.number |= {key: first + i for i, key in enumerate(keys)}
        self._changed()

    def remove(self, keys: Iterable[str]) -> int:
        dead = sorted({self.number[k] for k in keys if k in self.number})
        if dead:
            self.log.append([], {}, dead)
            self._load()
        return len(dead)

    def _tidy(self) -> None:
        """Compact the log once it has more deleted records than others."""
        if (~self.alive).sum() > max(self.alive.sum(), 256):
            self.log.rewrite(np.flatnonzero(self.alive), self._records)
            self._load()

    # Asking it

    def find(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        where: Where | None,
        unsigned: bool,
    ) -> list[Match]:
        records = (
            self.alive
            if where is None
            else self.alive & allowed(where, self.labels, len(self._records))
        )
        if len(query_LD) > 1 or any(map(self.is_multi_vector, fields)):
            return self._late_interaction(query_LD, k, fields, records, unsigned)
        best: dict[int, tuple[float, str]] = {}
        for field in fields:
            for score, record in self._ranked(field, query_LD[0], k, records, unsigned):
                if record not in best or score > best[record][0]:
                    best[record] = score, field
        ordered = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:k]
        return [self.match(r, score, field) for r, (score, field) in ordered]

    def match(self, number: int, score: float, field: str, part: int = -1) -> Match:
        """The record of a number, as what a query found."""
        record = self._records[number]
        return Match(record["key"], score, field, record["labels"], part)

    def _late_interaction(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        records: np.ndarray,
        unsigned: bool,
    ) -> list[Match]:
        lists = {field: self.log.lists(field) for field in fields}
        _, best = top_records(list(lists.values()), query_LD, k, records, unsigned)
        matches = []
        for record in best.tolist():
            spans = {s: one.span_of(record) for s, one in lists.items()}
            vectors = {s: lists[s].values[i] for s, i in spans.items() if i.stop > i.start}
            score, field, place = best_match(query_LD, vectors, unsigned)
            parts = lists[field].parts
            known = parts is not None and place >= 0
            part = int(parts[spans[field].start + place]) if parts is not None and known else -1
            matches.append(self.match(record, score, field, part))
        return matches

    def complete(
        self, fields: Sequence[str], where: Where | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The records that have all of some fields.

        Args:
            fields: One at least.
            where: A filter.

        Returns:
            (n,) their numbers, and (n, D) vectors of each field.
        """
        chosen = self.alive
        if where is not None:
            chosen = chosen & allowed(where, self.labels, len(self._records))
        columns = [self.mean_vectors(field) for field in fields]
        for _, rows in columns:
            chosen = chosen & np.isin(np.arange(len(self._records)), rows)
        numbers = np.flatnonzero(chosen)
        return numbers, [v[np.searchsorted(rows, numbers)] for v, rows in columns]

    def mean_vectors(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) one vector for each record that has the field, the mean of a list, and the (n,)
        numbers of the records."""
        lists = self.log.lists(field)
        if lists.lengths is None or not len(lists.rows):
            return lists.values, lists.rows
        total = np.add.reduceat(lists.values.astype(np.float32), lists.ends[:-1], axis=0)
        return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)).astype(
            np.float16
        ), lists.rows

    def _ranked(
        self, field: str, query: np.ndarray, k: int, records: np.ndarray, unsigned: bool
    ) -> list[tuple[float, int]]:
        if field not in self._mapped:
            values, rows = self.log.vectors(field)
            rows = np.asarray(rows)  # still mapped, but a memmap is slow to index
            self._mapped[field] = (
                np.asarray(values),
                rows,
                np.array_equal(rows, np.arange(len(records))),
            )
        vectors, rows, in_all = self._mapped[field]
        mask = None if records.all() else records if in_all else records[rows]
        count = len(rows) if mask is None else np.count_nonzero(mask)
        if not count:
            return []
        mask = None if count == len(rows) else mask
        if (
            unsigned
            or len(vectors) <= max(self.threshold, MIN_VECTORS)
            or count < SELECTIVE * len(vectors)
            or k >= count  # a score of every record, as an ensemble asks for
        ):
            scores, places = (part[0] for part in exact(vectors, query[None], k, mask, unsigned))
        else:
            scores, places = self.approximate(field).search(vectors, query, k, mask)
        return list(zip(scores.tolist(), rows[places].tolist()))

    def approximate(self, field: str) -> Approximate:
        """The faiss index of a field, a cache that is made or brought up to date if need be."""
        if field not in self._approximate:
            self._approximate[field] = Approximate.load(self.log, field, self._trial_queries(field))
        return self._approximate[field]

    def _trial_queries(self, field: str) -> np.ndarray:
        """Queries to tune on: vectors of every field with noise, so that none finds itself."""
        rng, parts = np.random.default_rng(0), []
        for source in self.sources:
            vectors, _ = self.log.vectors(source)
            parts.append(vectors[np.sort(rng.permutation(len(vectors))[:128])].astype(np.float32))
        queries = rng.permutation(np.concatenate(parts))
        noise = rng.normal(0, 0.3 / queries.shape[1] ** 0.5, queries.shape).astype(np.float32)
        return normalize(torch.from_numpy(queries + noise), dim=1).numpy()
