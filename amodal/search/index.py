"""The vectors of records, kept so that they can be searched, added to and deleted without making
everything anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.search._approximate import FEWEST, Approximate, exact
from amodal.search._log import Log
from amodal.search._maxsim import Lists, best_records, explained
from amodal.search.engine import Engine, Found, other_encoder
from amodal.search.filter import Labels, Where, allowed
from amodal.search.records import column_of

THRESHOLD = 100_000
SELECTIVE = 0.02
"""Below this share of records that a filter lets through they are searched exactly, which is then
as quick."""


class Index(Engine):
    """The embedded engine: float16 vectors in an append-only log, in a folder of this machine.

    path: the folder; threshold: vectors of one field up to which search is exact (as it always is
    for fewer than 1,024), beyond it uses faiss; the rest as in `Engine`.
    """

    def __init__(
        self, path: str | Path, *, encoder=None, fingerprint: str = "", threshold: int = THRESHOLD
    ):
        super().__init__(Path(path), encoder, fingerprint)
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
        path: str | Path, *, encoder=None, fingerprint: str = "", threshold: int = THRESHOLD
    ) -> Index:
        """The index in a folder; one without records if there is none yet. Raises AmodalError if
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

    def several(self, field: str) -> bool:
        return self.log.several(field)

    @property
    def width(self) -> int:
        return self.log.width

    @property
    def labels(self) -> Labels:
        """label -> (N,) str objects with None, or float64 with NaN where missing, of all records,
        dead ones too."""
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

    def beside(self, keys: set[str]) -> set[str]:
        return set(self.number) - keys

    def of_record(self, key: str) -> dict[str, np.ndarray]:
        number, found = self.number[key], {}
        for field in self.sources:
            lists = self.log.lists(field)
            own = lists.of(number)
            if own.stop > own.start:
                found[field] = np.asarray(lists.values[own], dtype=np.float32)
        return found

    def put(
        self, keys: list[str], vectors: dict[str, Lists], stamps: list[str], labels: list[dict]
    ) -> None:
        if not self.log.manifest:
            self.log.start(
                self.fingerprint, next((lists.values.shape[1] for lists in vectors.values()), 0)
            )
        first = len(self._records)
        records = [{"key": k, "stamp": s, "labels": own} for k, s, own in zip(keys, stamps, labels)]
        added = {
            source: replace(lists, rows=lists.rows + first) for source, lists in vectors.items()
        }
        dead = [self.number[k] for k in keys if k in self.number]
        self.log.append(records, added, dead)
        self._records += records
        self.alive = np.concatenate([self.alive, np.ones(len(records), dtype=bool)])
        self.alive[dead] = False
        for key in keys:
            self.number.pop(
                key, None
            )  # a key that was written anew goes to the end, as it does when the log is read
        self.number |= {key: first + i for i, key in enumerate(keys)}
        self._changed()

    def remove(self, keys: Iterable[str]) -> int:
        dead = sorted({self.number[k] for k in keys if k in self.number})
        if dead:
            self.log.append([], {}, dead)
            self._load()
        return len(dead)

    def _tidy(self) -> None:
        """Clear out the dead once they are more than the living."""
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
    ) -> list[Found]:
        records = (
            self.alive
            if where is None
            else self.alive & allowed(where, self.labels, len(self._records))
        )
        if len(query_LD) > 1 or any(map(self.several, fields)):
            return self._by_parts(query_LD, k, fields, records, unsigned)
        best: dict[int, tuple[float, str]] = {}
        for field in fields:
            for score, record in self._of(field, query_LD[0], k, records, unsigned):
                if record not in best or score > best[record][0]:
                    best[record] = score, field
        ordered = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:k]
        return [
            (self._records[r]["key"], score, field, self._records[r]["labels"], -1)
            for r, (score, field) in ordered
        ]

    def _by_parts(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        records: np.ndarray,
        unsigned: bool,
    ) -> list[Found]:
        lists, found = {field: self.log.lists(field) for field in fields}, []
        for record in best_records(list(lists.values()), query_LD, k, records, unsigned)[
            1
        ].tolist():
            at = {s: own for s, one in lists.items() if (own := one.of(record)).stop > own.start}
            score, field, place = explained(
                query_LD, {s: lists[s].values[own] for s, own in at.items()}, unsigned
            )
            parts = lists[field].parts
            part = int(parts[at[field].start + place]) if parts is not None and place >= 0 else -1
            found.append(
                (self._records[record]["key"], score, field, self._records[record]["labels"], part)
            )
        return found

    def one_each(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) one vector for each record that has the field, of several their mean, and the (n,)
        numbers of the records."""
        lists = self.log.lists(field)
        if lists.lengths is None or not len(lists.rows):
            return lists.values, lists.rows
        total = np.add.reduceat(lists.values.astype(np.float32), lists.ends[:-1], axis=0)
        return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)).astype(
            np.float16
        ), lists.rows

    def _of(
        self, field: str, query: np.ndarray, k: int, records: np.ndarray, unsigned: bool
    ) -> list[tuple[float, int]]:
        if field not in self._mapped:
            values, rows = self.log.vectors(field)
            rows = np.asarray(rows)  # still mapped; a memmap is slow to index
            self._mapped[field] = (
                np.asarray(values),
                rows,
                np.array_equal(rows, np.arange(len(records))),
            )
        vectors, rows, all_have_it = self._mapped[field]
        kept = None if records.all() else records if all_have_it else records[rows]
        count = len(rows) if kept is None else np.count_nonzero(kept)
        if not count:
            return []
        kept = None if count == len(rows) else kept
        if (
            unsigned
            or len(vectors) <= max(self.threshold, FEWEST)
            or count < SELECTIVE * len(vectors)
        ):
            scores, at = (part[0] for part in exact(vectors, query[None], k, kept, unsigned))
        else:
            scores, at = self.approximate(field).search(vectors, query, k, kept)
        return list(zip(scores.tolist(), rows[at].tolist()))

    def approximate(self, field: str) -> Approximate:
        """The faiss cache of a field, made or brought up to date if need be."""
        if field not in self._approximate:
            self._approximate[field] = Approximate.of(self.log, field, self._trial_queries(field))
        return self._approximate[field]

    def _trial_queries(self, field: str) -> np.ndarray:
        """Queries as people will ask them: vectors of every field, moved off the stored ones so
        that none finds itself for free."""
        rng, parts = np.random.default_rng(0), []
        for source in self.sources:
            vectors, _ = self.log.vectors(source)
            parts.append(vectors[np.sort(rng.permutation(len(vectors))[:128])].astype(np.float32))
        queries = rng.permutation(np.concatenate(parts))
        noise = rng.normal(0, 0.3 / queries.shape[1] ** 0.5, queries.shape).astype(np.float32)
        return normalize(torch.from_numpy(queries + noise), dim=1).numpy()
