"""The interface of an index, and what `Index` (a folder of this machine) and `Qdrant` share.

An engine stores, removes and ranks records. What to embed, the checks and their errors are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Embeddings, Ragged, unknown
from amodal.core.embeddings import FUSED
from amodal.data import Bad, Dataset
from amodal.data.row_names import row_names
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_multi_vector
from amodal.nn.encoder import Encoder
from amodal.search._maxsim import Lists, spans
from amodal.search.filter import Where
from amodal.search.records import in_rows, plain, stamp_of
from amodal.train import distributed

COMMIT_SIZE = 4096
"""Records between two commits of an update."""

Labels = dict[str, str | float | None]
"""The labels of one record, name -> value; None where missing."""


class Match(NamedTuple):
    """A record that a query found.

    Args:
        key: Of the record.
        score: Cosine.
        field: That matched.
        labels: Of the record.
        part: Of a multi-vector field, the number of the part that matched; -1 if there is none.
    """

    key: str
    score: float
    field: str
    labels: Labels
    part: int


class Engine(ABC):
    """Unit vectors (aligned space) of every field of every record, with keys and labels. A
    multi-vector field has a list of vectors for each record (late interaction).

    Args:
        path: A folder or an address.
        encoder: To embed with, needed to `update`.
        fingerprint: Of its weights, so that vectors of different encoders are never compared.

    Attributes:
        bad: Values that could not be read.
        names: Key -> what people call the record, of those that are about to be put.
        stale: Records that the dataset of the last `update` did not have.
        concurrent: Whether many processes may write at once.
    """

    concurrent = False

    def __init__(self, path: str | Path, encoder: Encoder | None, fingerprint: str):
        self.path, self.encoder, self.fingerprint = path, encoder, fingerprint
        self.bad: list[Bad] = []
        self.names: dict[str, str] = {}
        self.stale = 0

    # What each engine does in its own way

    @abstractmethod
    def __len__(self) -> int:
        """Records in it."""

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Whether it holds a record."""

    @property
    @abstractmethod
    def keys(self) -> list[str]:
        """Of all records."""

    @property
    @abstractmethod
    def sources(self) -> list[str]:
        """The fields that have vectors."""

    @abstractmethod
    def is_multi_vector(self, field: str) -> bool:
        """Whether a value of this field has a list of vectors."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Dimensions of its vectors; 0 before there are any."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Entered around every change."""

    @abstractmethod
    def stamps(self, keys: Sequence[str]) -> dict[str, str]:
        """key -> stamp of its content, of the records among these that it holds."""

    @abstractmethod
    def keys_except(self, keys: set[str]) -> set[str]:
        """Its keys that are not among these."""

    @abstractmethod
    def record_vectors(self, key: str) -> dict[str, np.ndarray]:
        """field -> (n, D) float32 unit vectors of one record; n = 1 but for multi-vector
        fields. Raises KeyError."""

    @abstractmethod
    def put(
        self, keys: list[str], vectors: dict[str, Lists], stamps: list[str], labels: list[Labels]
    ) -> None:
        """Add records, or replace them.

        Args:
            keys: Of the records.
            vectors: source -> unit vectors; their `rows` are positions in `keys`.
            stamps: Of the records.
            labels: Of the records.
        """

    @abstractmethod
    def remove(self, keys: Iterable[str]) -> int:
        """Delete those of the records that it holds; returns their number."""

    @abstractmethod
    def find(
        self,
        query_LD: np.ndarray,
        k: int,
        fields: Sequence[str],
        where: Where | None,
        unsigned: bool,
    ) -> list[Match]:
        """Rank records, see `nearest`. The norm of each query vector is its weight, 1 in all.
        Everything is checked but the filter."""

    # What all engines share

    def name_of(self, key: str) -> str:
        """What people call a record whose key is a hash of a row; "" where that is not known."""
        return ""

    def vector(self, key: str) -> Tensor:
        """(D,) unit vector of all fields of one record: the fused one of the network, or else the
        mean. Raises KeyError."""
        vectors = {
            s: normalize(torch.from_numpy(v).mean(0), dim=0)
            for s, v in self.record_vectors(key).items()
        }
        return normalize(
            vectors[FUSED] if FUSED in vectors else torch.stack(list(vectors.values())).mean(0),
            dim=0,
        )

    def __repr__(self) -> str:
        fields = ", ".join(self.sources) or "none"
        return f"{type(self).__name__}({str(self.path)!r}, {len(self):,} records, fields {fields})"

    def update(
        self,
        dataset: Dataset,
        *,
        device: torch.device | str | None = None,
        batch: int = 256,
        prune: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Self:
        """Embed the records that are new or whose content or labels have changed; skip the others.

        An update that was interrupted goes on where it stopped. Under torchrun all ranks fill a
        concurrent engine, each its chunks; rank 0 prunes.

        Args:
            dataset: The records.
            device: Where the encoder is.
            batch: Records that are embedded at once.
            prune: Delete the records that the dataset does not have; `stale` is their number,
                deleted or not.
            progress: Called with the number of records just done.

        Returns:
            The index. Its `bad` lists the values that could not be read.

        Raises:
            AmodalError: If it was opened without an encoder.
        """
        if self.encoder is None:
            raise AmodalError(
                "this index was opened without an encoder and can only be searched; to update "
                "it, open it with one"
            )
        if dataset.fields != self.encoder.fields:  # decode as in training
            dataset = dataset.with_fields(self.encoder.fields)
        labels, keys = {name: dataset.label(name) for name in dataset.labels}, list(dataset.keys)
        options = {"device": device, "batch": batch, "progress": progress}
        if self.concurrent:
            distributed.start()
        with self.writing():
            wanted: list[tuple[int, str]] = []
            for rows in rank_chunks(len(keys), self.concurrent):
                known = self.stamps([keys[i] for i in rows])
                for i in rows:
                    stamp = stamp_of(dataset, i, labels)
                    if known.get(keys[i]) != stamp:
                        wanted.append((i, stamp))
                    elif progress is not None:
                        progress(1)
                while len(wanted) >= COMMIT_SIZE:
                    self._embed(dataset, wanted[:COMMIT_SIZE], labels, **options)
                    wanted = wanted[COMMIT_SIZE:]
            if wanted:
                self._embed(dataset, wanted, labels, **options)
            alone = not self.concurrent or distributed.rank() == 0
            stale = self.keys_except(set(keys)) if alone else set()
            self.stale = len(stale)
            if prune and stale:
                self.remove(stale)
        return self

    def _embed(
        self,
        dataset: Dataset,
        wanted: list[tuple[int, str]],
        labels: dict[str, np.ndarray],
        **options: Any,
    ) -> None:
        rows, encoder = [i for i, _ in wanted], self.encoder
        assert encoder is not None  # `update` has refused it
        if getattr(encoder, "multi_vector", None) is not None:  # an ensemble has no such
            keys, vectors, parts, bad = embed_multi_vector(encoder, dataset, rows, **options)
        else:
            embedded = embed_records(encoder, dataset, rows, labels=False, **options)
            keys, vectors, parts, bad = embedded.keys, embedded.aligned, {}, embedded.bad
        self.bad += bad
        labelled = [{name: plain(values[i]) for name, values in labels.items()} for i in rows]
        self.names = {key: n for key, n in zip(keys, row_names(dataset, rows)) if n}
        self._put(keys, vectors, [stamp for _, stamp in wanted], labelled, parts)

    def add(
        self, keys: Iterable[str], vectors: Embeddings, labels: dict[str, np.ndarray] | None = None
    ) -> Self:
        """Add records with vectors that were made before, or replace them.

        Args:
            keys: Of the records.
            vectors: Row i is of key i; Ragged values are of a multi-vector field.
            labels: name -> (N,) values.

        Returns:
            The index.
        """
        keys, labels = list(keys), labels or {}
        if len(keys) != vectors.size:
            raise AmodalError(f"{len(keys)} keys for the vectors of {vectors.size} records")
        row_labels = in_rows(labels, len(keys))
        with self.writing():
            self._put(keys, vectors, [""] * len(keys), row_labels)
        return self

    def delete(self, keys: Iterable[str]) -> int:
        """Delete records; unknown keys are ignored. Returns how many were deleted."""
        with self.writing():
            return self.remove(keys)

    def _put(
        self,
        keys: list[str],
        vectors: Embeddings,
        stamps: list[str],
        labels: list[Labels],
        parts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """parts: of multi-vector sources, the number of the part that each vector is of; by default
        its position in the list."""
        flat = {
            s: c.values.flat if isinstance(c.values, Ragged) else c.values
            for s, c in vectors.columns.items()
        }
        widths = {values.shape[1] for values in flat.values()}
        if len(widths | {self.width or min(widths, default=0)}) > 1:
            raise AmodalError(
                f"vectors of {widths} dimensions do not go into an index of {self.width}; index "
                "anew with this encoder"
            )
        unit = {}
        for source, column in vectors.columns.items():
            is_multi = isinstance(column.values, Ragged)
            if source in self.sources and is_multi != self.is_multi_vector(source):
                old, new = ("one vector", "a list") if is_multi else ("a list of vectors", "one")
                raise AmodalError(
                    f"a {source} has {old} in this index and {new} here; index anew with this "
                    "encoder"
                )
            values = normalize(flat[source].float(), dim=1).half().cpu().numpy()
            rows = column.rows.cpu().numpy()
            if not isinstance(column.values, Ragged):
                unit[source] = Lists(values, rows)
                continue
            lengths = column.values.lengths.cpu().numpy()
            part = (parts or {}).get(source)
            number = spans(np.zeros_like(lengths), lengths) if part is None else part.cpu().numpy()
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
    ) -> list[Match]:
        """Rank records by the nearest of their vectors in these fields.

        Args:
            query: (D,); or (L, D), of which each vector finds its own nearest (MaxSim), and the
                score is the weighted mean of their cosines.
            k: How many records, each once.
            fields: That are compared; all if None.
            where: A filter.
            unsigned: Rank by |cosine|, always exactly (approximate search sees one side only).
            weights: (L,) positive, of the vectors of the query; equal if None.

        Returns:
            The matches, best first.

        Raises:
            AmodalError: For an empty index, unknown fields, labels and values, and a query of
                another width.
        """
        if not len(self):
            raise AmodalError(
                f"there is nothing in the index in {self.path}; fill it with `amodal index RUN "
                "--data "
                "DIR`"
            )
        fields = list(fields) if fields is not None else self.sources
        for field in fields:
            if field not in self.sources:
                raise unknown("field in this index", field, self.sources)
        if query.shape[-1:] != (self.width,) or query.dim() > 2 or not query.numel():
            raise AmodalError(
                f"the query has shape {tuple(query.shape)}, the index holds vectors of "
                f"{self.width} "
                "dimensions"
            )
        if k < 1:
            raise AmodalError(f"k = {k}: at least one record must be asked for")
        unit = normalize(query.float().reshape(-1, self.width), dim=1)
        if weights is None:
            return self.find((unit / len(unit)).numpy(), k, fields, where, unsigned)
        share = weights.float()
        if share.shape != (len(unit),) or not bool((share > 0).all()):
            raise AmodalError(
                f"{len(unit)} vectors of a query need as many weights above 0, got "
                f"{share.tolist()[:8]}"
            )
        return self.find(
            (unit * (share / share.sum())[:, None]).numpy(), k, fields, where, unsigned
        )


def other_encoder(path: str | Path, made_by: str, fingerprint: str, instead: str) -> AmodalError:
    """The error for an index of another encoder. instead: what to do about it."""
    return AmodalError(
        f"the index in {path} was made by another encoder (fingerprint {made_by}, this one is "
        f"{fingerprint}), and vectors of different encoders cannot be compared. Index anew: "
        f"{instead}."
    )


def rank_chunks(count: int, concurrent: bool) -> list[range]:
    """The rows that this process embeds, in chunks: all of `count`, or its rank's share of a
    concurrent engine."""
    chunks = [
        range(start, min(start + COMMIT_SIZE, count)) for start in range(0, count, COMMIT_SIZE)
    ]
    return list(distributed.rank_share(chunks)) if concurrent else chunks
