"""What an index is, wherever its vectors lie: the embedded one in a folder (`Index`), and Qdrant's
for many machines (`Qdrant`).

An engine says how records are known, kept, removed and found; what to embed, what is checked and
how errors read is here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Embeddings, Ragged, unknown
from amodal.core.embeddings import FUSED
from amodal.data import Bad, Dataset
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_multi_vector
from amodal.search._maxsim import Lists, spans
from amodal.search.filter import Where
from amodal.search.records import in_rows, plain, stamp_of
from amodal.train import distributed

AT_ONCE = 4096
"""Records between two commits of an update."""

Found = tuple[str, float, str, dict, int]
"""key, score, field, labels, and of a field with several vectors the number of the part that was
found, -1 where there is none"""


class Engine(ABC):
    """Unit vectors (aligned space) of every field of every record, one or several of each, with the
    record's key and labels.

    path: where it is, as people name it; encoder: to embed with, needed to `update`; fingerprint:
    of its weights, so that vectors of different encoders are never compared; bad: values that could
    not be read; gone: see `update`; many: whether several processes may write at once.
    """

    many = False

    def __init__(self, path: str | Path, encoder, fingerprint: str):
        self.path, self.encoder, self.fingerprint = path, encoder, fingerprint
        self.bad: list[Bad] = []
        self.gone = 0

    # What an engine says

    @abstractmethod
    def __len__(self) -> int:
        """Records in it."""

    @property
    @abstractmethod
    def keys(self) -> list[str]:
        """Of all records."""

    @property
    @abstractmethod
    def sources(self) -> list[str]:
        """The fields that have vectors."""

    @abstractmethod
    def several(self, field: str) -> bool:
        """Whether a value of this field has several vectors."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Of its vectors; 0 before there are any."""

    @abstractmethod
    def writing(self) -> AbstractContextManager:
        """Entered around every change."""

    @abstractmethod
    def stamps(self, keys: Sequence[str]) -> dict[str, str]:
        """key -> stamp of its content, of those that it holds."""

    @abstractmethod
    def beside(self, keys: set[str]) -> set[str]:
        """The keys that it holds and that are not among these."""

    @abstractmethod
    def of_record(self, key: str) -> dict[str, np.ndarray]:
        """field -> (n, D) float32 unit vectors of one record; n = 1 but for fields with several.
        Raises KeyError."""

    @abstractmethod
    def put(
        self, keys: list[str], vectors: dict[str, Lists], stamps: list[str], labels: list[dict]
    ) -> None:
        """Add records, or write them anew. vectors: source -> unit vectors; their `rows` are places
        in `keys`."""

    @abstractmethod
    def remove(self, keys: Iterable[str]) -> int:
        """Take records out, those that it holds; returns their number."""

    @abstractmethod
    def find(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        where: Where | None,
        unsigned: bool,
    ) -> list[Found]:
        """See `nearest`; the vectors of the query are as long as they weigh, 1 in all, and all is
        checked but the filter."""

    # What all have

    def vector(self, key: str) -> Tensor:
        """(D,) of length 1: of one record, of all its fields together, as the network fused them or
        else their mean. Raises KeyError."""
        found = {
            s: normalize(torch.from_numpy(v).mean(0), dim=0) for s, v in self.of_record(key).items()
        }
        return normalize(
            found[FUSED] if FUSED in found else torch.stack(list(found.values())).mean(0), dim=0
        )

    def __repr__(self) -> str:
        fields = ", ".join(self.sources) or "none"
        return f"{type(self).__name__}({str(self.path)!r}, {len(self):,} records, fields {fields})"

    def update(
        self,
        dataset: Dataset,
        *,
        device=None,
        batch: int = 256,
        prune: bool = False,
        progress: Callable[[int], object] | None = None,
    ):
        """Embed the records that are new or whose content or labels have changed; the others are
        skipped. Returns the index.

        prune: delete records that the dataset does not have; `gone` is their number, deleted or
        not. progress: called with the number of records just done. An update that was interrupted
        goes on where it stopped. `bad` lists values that could not be read. Under torchrun an
        engine that several may write to is filled by all ranks, each its own chunks; rank 0 prunes.
        """
        if self.encoder is None:
            raise AmodalError(
                "this index was opened without an encoder and can only be searched; to update it, open it with one"
            )
        labels, keys = {name: dataset.label(name) for name in dataset.labels}, list(dataset.keys)
        if self.many:
            distributed.start()
        with self.writing():
            wanted: list[tuple[int, str]] = []
            for rows in shares(len(keys), self.many):
                known = self.stamps([keys[i] for i in rows])
                for i in rows:
                    stamp = stamp_of(dataset, i, labels)
                    if known.get(keys[i]) != stamp:
                        wanted.append((i, stamp))
                    elif progress is not None:
                        progress(1)
                while len(wanted) >= AT_ONCE:
                    self._embed(
                        dataset,
                        wanted[:AT_ONCE],
                        labels,
                        device=device,
                        batch=batch,
                        progress=progress,
                    )
                    wanted = wanted[AT_ONCE:]
            if wanted:
                self._embed(dataset, wanted, labels, device=device, batch=batch, progress=progress)
            gone = self.beside(set(keys)) if not self.many or distributed.rank() == 0 else set()
            self.gone = len(gone)
            if prune and gone:
                self.remove(gone)
        return self

    def _embed(
        self,
        dataset: Dataset,
        wanted: list[tuple[int, str]],
        labels: dict[str, np.ndarray],
        **options,
    ) -> None:
        rows = [i for i, _ in wanted]
        if getattr(self.encoder, "multi_vector", None) is not None:
            keys, vectors, parts, bad = embed_multi_vector(self.encoder, dataset, rows, **options)
        else:
            embedded, parts = (
                embed_records(self.encoder, dataset, rows, labels=False, **options),
                {},
            )
            keys, vectors, bad = embedded.keys, embedded.aligned, embedded.bad
        self.bad += bad
        own = [{name: plain(values[i]) for name, values in labels.items()} for i in rows]
        self._put(keys, vectors, [stamp for _, stamp in wanted], own, parts)

    def add(
        self, keys: Iterable[str], vectors: Embeddings, labels: dict[str, np.ndarray] | None = None
    ):
        """Records with vectors that were made before; those whose keys it holds are replaced.
        vectors: row i is of key i; of a source whose values are Ragged each record has several."""
        keys, labels = list(keys), labels or {}
        if len(keys) != vectors.size:
            raise AmodalError(f"{len(keys)} keys for the vectors of {vectors.size} records")
        own = in_rows(labels, len(keys))
        with self.writing():
            self._put(keys, vectors, [""] * len(keys), own)
        return self

    def delete(self, keys: Iterable[str]) -> int:
        """Take records out. Keys that it does not hold are passed over. Returns how many were
        deleted."""
        with self.writing():
            return self.remove(keys)

    def _put(
        self,
        keys: list[str],
        vectors: Embeddings,
        stamps: list[str],
        labels: list[dict],
        parts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """parts: of sources with several vectors, the number of the part that each is of, its place
        in its list unless given."""
        flat = {
            s: c.values.flat if isinstance(c.values, Ragged) else c.values
            for s, c in vectors.columns.items()
        }
        widths = {values.shape[1] for values in flat.values()}
        if len(widths | {self.width or min(widths, default=0)}) > 1:
            raise AmodalError(
                f"vectors of {widths} dimensions do not go into an index of {self.width}; index again with this encoder"
            )
        unit = {}
        for source, column in vectors.columns.items():
            several = isinstance(column.values, Ragged)
            if source in self.sources and several != self.several(source):
                has, given = (
                    ("several vectors", "one")
                    if self.several(source)
                    else ("one vector", "several")
                )
                raise AmodalError(
                    f"a {source} has {has} in this index and {given} here; index again with this encoder"
                )
            values = normalize(flat[source].float(), dim=1).half().cpu().numpy()
            rows = column.rows.cpu().numpy()
            if not isinstance(column.values, Ragged):
                unit[source] = Lists(values, rows)
                continue
            lengths = column.values.lengths.cpu().numpy()
            given_number = (parts or {}).get(source)
            number = (
                spans(np.zeros_like(lengths), lengths)
                if given_number is None
                else given_number.cpu().numpy()
            )
            unit[source] = Lists(
                values, rows[lengths > 0], lengths[lengths > 0], number.astype(np.int32)
            )
        self.put(keys, unit, stamps, labels)

    def nearest(
        self,
        query: Tensor,
        *,
        k: int = 10,
        fields: Iterable[str] | None = None,
        where: Where | None = None,
        unsigned: bool = False,
        weights: Tensor | None = None,
    ) -> list[Found]:
        """Up to k found, best first, each record once, by the nearest of its vectors in these
        fields. unsigned: by |cosine|, always exactly (approximate search looks on one side only).

        query: (D,), or (L, D) of several vectors, of which each finds its own nearest; the score is
        the mean of their cosines, weighted by `weights` (L,), which are positive. Raises
        AmodalError for an empty index, unknown fields, labels and values, and a query of another
        width.
        """
        if not len(self):
            raise AmodalError(
                f"there is nothing in the index in {self.path}; fill it with `amodal index RUN --data DIR`"
            )
        fields = list(fields) if fields is not None else self.sources
        for field in fields:
            if field not in self.sources:
                raise unknown("field in this index", field, self.sources)
        if query.shape[-1:] != (self.width,) or query.dim() > 2 or not query.numel():
            raise AmodalError(
                f"the query has shape {tuple(query.shape)}, the index holds vectors of {self.width} dimensions"
            )
        if k < 1:
            raise AmodalError(f"k = {k}: at least one record must be asked for")
        unit = normalize(query.float().reshape(-1, self.width), dim=1)
        if weights is None:
            return self.find((unit / len(unit)).numpy(), k, fields, where, unsigned)
        share = weights.float()
        if share.shape != (len(unit),) or not bool((share > 0).all()):
            raise AmodalError(
                f"{len(unit)} vectors of a query need as many weights above 0, got {share.tolist()[:8]}"
            )
        return self.find(
            (unit * (share / share.sum())[:, None]).numpy(), k, fields, where, unsigned
        )


def other_encoder(path: str | Path, made_by: str, fingerprint: str, instead: str) -> AmodalError:
    """instead: what to do about it."""
    return AmodalError(
        f"the index in {path} was made by another encoder (fingerprint {made_by}, this one is {fingerprint}), and vectors of "
        f"different encoders cannot be compared. Index again: {instead}."
    )


def shares(count: int, many: bool) -> list[range]:
    """The rows of `count` that this process is to see to, in chunks: all, or this rank's where many
    write."""
    chunks = [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
    return list(distributed.rank_share(chunks)) if many else chunks
