"""What a server does with a model, apart from HTTP; the routes of all pages call it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.core.protocols import Predicts
from amodal.inference.embed import probed_columns
from amodal.inference.forward_passes import to_cpu
from amodal.inference.predict import MethodPredictor
from amodal.inference.probe_head import ProbeHead
from amodal.modalities import Raw
from amodal.modalities.shared.base import shortened
from amodal.model import Model
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from amodal.nn.multi_vector import MultiVector
from amodal.search import Hit
from amodal.search import search as run_search
from amodal.serve.batcher import Batcher
from amodal.serve.bodies import Record
from amodal.serve.index_cache import IndexCache
from amodal.serve.limits import Limits, Refused
from amodal.serve.metrics import Metrics
from amodal.serve.values import ReadValues, read_value

T = TypeVar("T")
P = ParamSpec("P")
Decoded = dict[str, tuple[Raw, np.ndarray]]
"""Field -> a value as its modality bounds it, and decoded."""
SPACES = ("aligned", "features")


@dataclass(frozen=True)
class Encoded:
    """The outputs of the network for one record.

    Args:
        aligned: source -> (D,) in the space where sources are compared, with `fused`.
        features: source -> (D,) before the heads, with `fused` for joint trunks.
        predictions: target -> (classes,) probabilities, or a number.
        query_vectors: source -> (L, D) as a query, of encoders whose queries are lists.
    """

    aligned: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    query_vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def in_space(self, space: str) -> dict[str, np.ndarray]:
        """`aligned` or `features`."""
        return self.aligned if space == "aligned" else self.features


class Service:
    """A model and its index, with the threads that use them.

    Args:
        model: See `amodal.load`.
        index: Folder or address of the index; RUN/index if None.
        limits: Of the server.
        metrics: Of the server.
    """

    def __init__(
        self, model: Model, *, index: str | Path | None = None, limits: Limits, metrics: Metrics
    ):
        self.model, self.limits, self.metrics = model, limits, metrics
        if index is None and model.path is not None:
            index = model.path / "index"
        self.index_cache = IndexCache(index, model.fingerprint)
        self.readers = ThreadPoolExecutor(limits.readers, "amodal-reader")
        # one thread, as `IndexCache` needs: `refreshed` exchanges what a search reads
        self.searcher = ThreadPoolExecutor(1, "amodal-search")
        self.network: Batcher[Decoded, Encoded] = Batcher(
            self._encode, limits.records, metrics.batches.observe
        )

    @property
    def encoder(self) -> Encoder:
        """Of the model."""
        return self.model.encoder

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what takes long with bytes in a reader thread."""
        work = partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    async def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Decode records and run them through the network. Raises Refused for values that cannot
        be read."""
        ready = await asyncio.gather(*(self.read(self._decoded, record) for record in records))
        return await self.network(ready)

    async def search(
        self,
        query: Record,
        *,
        k: int,
        weights: dict[str, float],
        like: Sequence[str] = (),
        fields: Sequence[str] | None = None,
        where: dict[str, str] | None = None,
    ) -> list[Hit]:
        """Find the k records nearest to a query.

        Args:
            query: field -> value.
            k: How many.
            weights: Of the parts of the query, by field and by `like:KEY`.
            like: Keys of records that are parts of the query, and are not found themselves.
            fields: See `amodal.search.search`.
            where: See `amodal.search.search`.

        Raises:
            Refused: Without an index, and for unknown keys.
        """
        if not len(await self.records()):
            raise Refused(
                409, "there is no index to search in; make one with `amodal index RUN --data DIR`"
            )
        encoded = await self.encode([{name: value} for name, value in query.items()])
        vectors = {
            n: torch.from_numpy(finite(one.query_vectors.get(n, one.aligned[n])))
            for n, one in zip(query, encoded)
        }
        return await self._with_index(
            lambda: self._nearest(vectors, like, k, weights, fields, where)
        )

    async def records(self) -> IndexCache:
        """The index as it is now."""
        return await self._with_index(self.index_cache.refreshed)

    async def list_records(
        self, start: int, count: int, where: dict[str, str] | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """See `IndexCache.page`."""
        return await self._with_index(
            lambda: self.index_cache.refreshed().page(start, count, where)
        )

    async def one_record(self, key: str) -> dict[str, Any]:
        """See `IndexCache.record`. Raises Refused for a key that is not in the index."""
        try:
            return await self._with_index(lambda: self.index_cache.refreshed().record(key))
        except KeyError:
            raise Refused(404, f"there is no record {shortened(key)!r}") from None

    async def _with_index(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.searcher, call)

    def _nearest(
        self,
        vectors: dict[str, Tensor],
        like: Sequence[str],
        k: int,
        weights: dict[str, float],
        fields: Sequence[str] | None,
        where: dict[str, str] | None,
    ) -> list[Hit]:
        index = self.index_cache.refreshed().index
        assert index is not None, "it has records"
        if missing := next((key for key in like if key not in index), None):
            raise Refused(404, f"there is no record {shortened(missing)!r}")
        return run_search(
            index,
            self.encoder,
            vectors,
            k=k,
            weights=weights,
            like=like,
            fields=fields,
            where=where,
        )

    def _decoded(self, record: Record) -> Decoded:
        return {
            name: read_value(self.model.fields[name], name, raw, self.limits)
            for name, raw in record.items()
        }

    @torch.inference_mode()
    def _encode(self, records: Sequence[Decoded]) -> list[Encoded]:
        batch = self._batch(records)
        features = self.encoder.features(batch)
        aligned, features = to_cpu(self.encoder.project(features)), to_cpu(features)
        encoded = [Encoded({}, {}) for _ in records]
        for space, embeddings in (("aligned", aligned), ("features", features)):
            columns = {s: embeddings[s] for s in embeddings.sources}
            if space == "aligned" or FUSED in embeddings:
                columns[FUSED] = embeddings.fused()
            for source, column in columns.items():
                for row, vector in zip(column.rows.tolist(), column.flat.numpy()):
                    encoded[row].in_space(space)[source] = vector
        self._add_query_vectors(batch, encoded)
        self._add_predictions(batch, aligned, features, encoded, records)
        return encoded

    def _batch(self, records: Sequence[Decoded]) -> Batch:
        columns = {}
        for name, modality in self.model.fields.items():
            rows = [i for i, record in enumerate(records) if name in record]
            values = modality.collate([records[i][name][1] for i in rows])
            columns[name] = Column(values, torch.tensor(rows, dtype=torch.int64))
        # Every record has the same key and so the same seed: its vectors do not depend on which
        # records it shares a batch with.
        return Batch.of(len(records), columns, [""] * len(records)).to(self.model.device)

    def _add_query_vectors(self, batch: Batch, encoded: list[Encoded]) -> None:
        multi_vector = cast("MultiVector | None", self.encoder.multi_vector)
        if multi_vector is None or not multi_vector.queries_are_lists:
            return
        for name, column in batch.columns.items():
            if not len(column):
                continue
            lists = multi_vector.of_query(self.encoder, batch, name).split()
            for row, vectors in zip(column.rows.tolist(), lists):
                encoded[row].query_vectors[name] = vectors.float().cpu().numpy()

    def _add_predictions(
        self,
        batch: Batch,
        aligned: Embeddings,
        features: Embeddings,
        encoded: list[Encoded],
        records: Sequence[Decoded],
    ) -> None:
        head = self.model.head
        if head is None:
            return
        if isinstance(head, MethodPredictor):
            outputs = cast(Predicts, head.method).predict(batch).to("cpu")
        elif isinstance(head, ProbeHead):
            read = {}
            for name in head.fields:
                rows = np.array([i for i, record in enumerate(records) if name in record], int)
                read[name] = rows, ReadValues([records[i][name] for i in rows])
            outputs = head.of_values(probed_columns(features, aligned), read, len(records))
        else:
            outputs = head.predict(features)
        for target, values in head.predictions(outputs).items():
            for row, value in zip(outputs.rows.tolist(), values.numpy()):
                encoded[row].predictions[target] = value


def predictions_json(targets: Sequence[Target], encoded: Encoded) -> dict[str, Any]:
    """The predictions of one record for JSON.

    Args:
        targets: Of the model's head.
        encoded: The outputs for the record.

    Returns:
        target -> `prediction` (the likeliest class, or a number; None for a record whose fields
        the head cannot use) and, of classes, `probabilities`.
    """
    content: dict[str, Any] = {}
    for target in targets:
        if target.name not in encoded.predictions:
            content[target.name] = {"prediction": None}
            continue
        value = finite(encoded.predictions[target.name])
        if target.kind == "classes":
            named = dict(zip(target.classes, value.tolist()))
            likeliest = max(named, key=lambda name: named[name])
            content[target.name] = {"prediction": likeliest, "probabilities": named}
        else:
            name = f"log hazard of {target.labels[1]}" if target.kind == "survival" else target.name
            content[name] = {"prediction": float(value)}
    return content


def finite(value: np.ndarray) -> np.ndarray:
    """The same. Raises Refused for infinities and NaN, which JSON cannot hold."""
    if not np.isfinite(value).all():
        raise Refused(
            422, "the numbers of this record are so large that the encoder makes nothing of them"
        )
    return value
