"""The vectors of records, kept so that they can be searched, added to and deleted without making everything anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Embeddings, unknown
from amodal.data import Bad, Dataset
from amodal.evaluate import embed_records
from amodal.search._approximate import Approximate, exact
from amodal.search._filter import Where, allowed
from amodal.search._log import Log
from amodal.search._records import column_of, plain, stamp_of

THRESHOLD = 100_000
SELECTIVE = 0.05
"""Below this share of records that a filter lets through they are searched exactly: approximate search would miss most of them."""

AT_ONCE = 4096
"""Records between two commits of an update."""


Found = tuple[str, float, str, dict]
"""key, cosine, sense, labels"""


class Index:
    """Unit vectors (aligned space, float16) of every sense of every record, with the record's key and labels.

    path: the folder; encoder: to embed with, needed to `update`; fingerprint: of its weights, so that vectors of different encoders
    are never compared; threshold: vectors of one sense up to which search is exact, beyond it uses faiss.
    """

    def __init__(self, path: str | Path, *, encoder=None, fingerprint: str = "", threshold: int = THRESHOLD):
        self.path, self.encoder, self.fingerprint, self.threshold = Path(path), encoder, fingerprint, threshold
        self.bad: list[Bad] = []
        self.gone = 0
        self.log = Log(self.path)
        made_by = self.log.manifest.get("fingerprint", "")
        if self.log.manifest and fingerprint and made_by and made_by != fingerprint:
            raise AmodalError(
                f"the index in {self.path} was made by another encoder (fingerprint {made_by}, this one is {fingerprint}), and vectors of "
                f"different encoders cannot be compared. Index again: remove {self.path}, or index into another folder."
            )
        self._load()

    @staticmethod
    def open(path: str | Path, *, encoder=None, fingerprint: str = "", threshold: int = THRESHOLD) -> Index:
        """The index in a folder; one without records if there is none yet. Raises AmodalError if another encoder made it."""
        return Index(path, encoder=encoder, fingerprint=fingerprint, threshold=threshold)

    def _load(self) -> None:
        self._records = self.log.records()
        self.alive = np.ones(len(self._records), dtype=bool)
        self.alive[self.log.dead()] = False
        self.number = {self._records[i]["key"]: i for i in np.flatnonzero(self.alive).tolist()}
        self._changed()

    def _changed(self) -> None:
        self._labels: dict[str, np.ndarray] | None = None
        self._approximate: dict[str, Approximate] = {}

    def __len__(self) -> int:
        """Records in it."""
        return len(self.number)

    def __contains__(self, key: str) -> bool:
        return key in self.number

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self):,} records, senses {', '.join(self.sources) or 'none'})"

    @property
    def keys(self) -> list[str]:
        return list(self.number)

    @property
    def sources(self) -> list[str]:
        """The senses that have vectors."""
        return self.log.sources

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """label -> (N,) str objects with None, or float64 with NaN where missing, of all records, dead ones too."""
        if self._labels is None:
            names = dict.fromkeys(name for r in self._records for name in r["labels"])
            self._labels = {name: column_of([r["labels"].get(name) for r in self._records]) for name in names}
        return self._labels

    # Changing it

    def update(
        self,
        dataset: Dataset,
        *,
        device=None,
        batch: int = 256,
        prune: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Index:
        """Embed the records that are new or whose content or labels have changed; the others are skipped. Returns the index.

        prune: delete records that the dataset does not have; `gone` is their number, deleted or not. progress: called with the number
        of records just done. An update that was interrupted goes on where it stopped. `bad` lists values that could not be read.
        """
        if self.encoder is None:
            raise AmodalError(
                "this index was opened without an encoder and can only be searched; to update it, open it with one"
            )
        labels = {name: dataset.label(name) for name in dataset.labels}
        with self.log.writing():
            self._load()
            wanted = []
            for i, key in enumerate(dataset.keys):
                stamp = stamp_of(dataset, i, labels)
                if key not in self.number or self._records[self.number[key]]["stamp"] != stamp:
                    wanted.append((i, stamp))
                elif progress is not None:
                    progress(1)
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                rows = [i for i, _ in part]
                embedded = embed_records(
                    self.encoder, dataset, rows, batch=batch, device=device, progress=progress, labels=False
                )
                self.bad += embedded.bad
                own = [{name: plain(values[i]) for name, values in labels.items()} for i, _ in part]
                self._add(embedded.keys, embedded.aligned, [stamp for _, stamp in part], own)
            gone = set(self.number) - set(dataset.keys)
            self.gone = len(gone)
            if prune:
                self._kill(gone)
            self._tidy()
        return self

    def add(self, keys: Iterable[str], vectors: Embeddings, labels: dict[str, np.ndarray] | None = None) -> Index:
        """Records with vectors that were made before; those whose keys it holds are replaced. vectors: row i is of key i."""
        keys, labels = list(keys), labels or {}
        if len(keys) != vectors.size:
            raise AmodalError(f"{len(keys)} keys for the vectors of {vectors.size} records")
        own = [{name: plain(values[i]) for name, values in labels.items()} for i in range(len(keys))]
        with self.log.writing():
            self._load()
            self._add(keys, vectors, [""] * len(keys), own)
            self._tidy()
        return self

    def delete(self, keys: Iterable[str]) -> int:
        """Take records out. Keys that it does not hold are passed over. Returns how many were deleted."""
        with self.log.writing():
            self._load()
            gone = self._kill(keys)
            self._tidy()
        return gone

    def _add(self, keys: list[str], vectors: Embeddings, stamps: list[str], labels: list[dict]) -> None:
        widths = {c.values.shape[1] for c in vectors.columns.values()}
        if not self.log.manifest:
            self.log.start(self.fingerprint, widths.copy().pop() if widths else 0)
        if widths - {self.log.width}:
            raise AmodalError(
                f"vectors of {widths} dimensions do not go into an index of {self.log.width}; index again with this encoder"
            )
        first = len(self._records)
        records = [{"key": k, "stamp": s, "labels": own} for k, s, own in zip(keys, stamps, labels)]
        added = {}
        for source, column in vectors.columns.items():
            values = normalize(column.values.float(), dim=1).half().numpy()
            added[source] = values, column.rows.numpy() + first
        dead = [self.number[k] for k in keys if k in self.number]
        self.log.append(records, added, dead)
        self._records += records
        self.alive = np.concatenate([self.alive, np.ones(len(records), dtype=bool)])
        self.alive[dead] = False
        for key in keys:
            self.number.pop(key, None)  # a key that was written anew goes to the end, as it does when the log is read
        self.number |= {key: first + i for i, key in enumerate(keys)}
        self._changed()

    def _kill(self, keys: Iterable[str]) -> int:
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

    def nearest(
        self,
        query_D: Tensor,
        *,
        k: int = 10,
        senses: Iterable[str] | None = None,
        where: Where | None = None,
        unsigned: bool = False,
    ) -> list[Found]:
        """Up to k found, best first, each record once, by that of its senses which is nearest. unsigned: by |cosine|, always exactly
        (lists of faiss look on one side only).

        Raises AmodalError for an empty index, unknown senses, labels and values, and a query of another width.
        """
        if not len(self):
            raise AmodalError(
                f"there is nothing in the index in {self.path}; fill it with `amodal index RUN --data DIR`"
            )
        senses = list(senses) if senses is not None else self.sources
        for sense in senses:
            if sense not in self.sources:
                raise unknown("sense in this index", sense, self.sources)
        if query_D.shape != (self.log.width,):
            raise AmodalError(
                f"the query has shape {tuple(query_D.shape)}, the index holds vectors of {self.log.width} dimensions"
            )
        if k < 1:
            raise AmodalError(f"k = {k}: at least one record must be asked for")
        query = normalize(query_D.float(), dim=0).numpy()
        records = self.alive if where is None else self.alive & allowed(where, self.labels, len(self._records))
        best: dict[int, tuple[float, str]] = {}
        for sense in senses:
            for score, record in self._of(sense, query, k, records, unsigned):
                if record not in best or score > best[record][0]:
                    best[record] = score, sense
        ordered = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:k]
        return [(self._records[r]["key"], score, sense, self._records[r]["labels"]) for r, (score, sense) in ordered]

    def _of(
        self, sense: str, query: np.ndarray, k: int, records: np.ndarray, unsigned: bool
    ) -> list[tuple[float, int]]:
        vectors, rows = self.log.vectors(sense)
        kept = records[rows]
        count = int(kept.sum())
        if not count:
            return []
        kept = None if count == len(kept) else kept
        if unsigned or len(vectors) <= self.threshold or count < SELECTIVE * len(vectors):
            scores, at = (part[0] for part in exact(vectors, query[None], k, kept, unsigned))
        else:
            scores, at = self.approximate(sense).search(vectors, query, k, kept)
        return [(float(s), int(rows[a])) for s, a in zip(scores, at)]

    def approximate(self, sense: str) -> Approximate:
        """The faiss cache of a sense, made or brought up to date if need be."""
        if sense not in self._approximate:
            self._approximate[sense] = Approximate.of(self.log, sense, self._trial_queries(sense))
        return self._approximate[sense]

    def _trial_queries(self, sense: str) -> np.ndarray:
        """Queries as people will ask them: vectors of every sense, moved off the stored ones so that none finds itself for free."""
        rng, parts = np.random.default_rng(0), []
        for source in self.sources:
            vectors, _ = self.log.vectors(source)
            parts.append(vectors[np.sort(rng.permutation(len(vectors))[:128])].astype(np.float32))
        queries = rng.permutation(np.concatenate(parts))
        noise = rng.normal(0, 0.3 / queries.shape[1] ** 0.5, queries.shape).astype(np.float32)
        return normalize(torch.from_numpy(queries + noise), dim=1).numpy()
