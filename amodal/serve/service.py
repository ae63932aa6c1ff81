"""What a server does with a model, without HTTP: the routes of `api.py` and those of other pages
call this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from amodal.core import Batch, Column
from amodal.core.embeddings import FUSED
from amodal.inference.forward_passes import to_cpu
from amodal.inference.predict import MethodPredictor
from amodal.modalities.shared.base import shortened
from amodal.search import Hit
from amodal.search import search as run_search
from amodal.serve.batcher import Together
from amodal.serve.bodies import Record
from amodal.serve.index_cache import IndexCache
from amodal.serve.limits import Limits, Refused
from amodal.serve.metrics import Metrics
from amodal.serve.values import decoded

T = TypeVar("T")
Decoded = dict[str, np.ndarray]
SPACES = ("aligned", "features")


@dataclass(frozen=True)
class Seen:
    """What the network makes of one record. aligned, features: source -> (D,) in either space, with
    `fused`; told: target -> what the head says, (classes,) probabilities or a number; asked: source
    -> (L, D) as a query, of encoders whose queries are lists."""

    aligned: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    told: dict[str, np.ndarray] = field(default_factory=dict)
    asked: dict[str, np.ndarray] = field(default_factory=dict)


class Service:
    """model: see `amodal.load`; index: its folder or address, RUN/index unless given; limits,
    metrics: of the server."""

    def __init__(self, model, *, index: str | Path | None = None, limits: Limits, metrics: Metrics):
        self.model, self.limits, self.metrics = model, limits, metrics
        where = (
            index if index is not None else model.path / "index" if model.path is not None else None
        )
        self.shelf = IndexCache(where, model.fingerprint)
        self.readers = ThreadPoolExecutor(limits.readers, "amodal-reader")
        self.searcher = ThreadPoolExecutor(1, "amodal-search")
        self.network: Together[Decoded, Seen] = Together(
            self._see, limits.records, metrics.batches.observe
        )

    @property
    def encoder(self):
        return self.model.encoder

    async def read(self, call: Callable[..., T], *given) -> T:
        """Run what takes long with bytes in a thread that reads."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, call, *given)

    async def see(self, records: Sequence[Record]) -> list[Seen]:
        """Records as they came in, through the network. Raises Refused for values that cannot be
        read."""
        ready = await asyncio.gather(*(self.read(self._decoded, record) for record in records))
        return await self.network(ready)

    async def search(
        self,
        query: Record,
        *,
        k: int,
        weights: dict[str, float],
        like: Sequence[str] = (),
        **options,
    ) -> list[Hit]:
        """The k records nearest to a query; like: keys of records that are parts of it, and are not
        found themselves; weights: of its parts, by field and by `like:KEY`; options: fields and
        where, as for `amodal.search.search`. Raises Refused."""
        if not len(await self.records()):
            raise Refused(
                409, "there is no index to search in; make one with `amodal index RUN --data DIR`"
            )
        seen = await self.see([{name: value} for name, value in query.items()])
        vectors = {
            n: torch.from_numpy(finite(one.asked.get(n, one.aligned[n])))
            for n, one in zip(query, seen)
        }
        return await self._with_index(lambda: self._nearest(vectors, like, k, weights, options))

    async def records(self) -> IndexCache:
        """The index as it is now."""
        return await self._with_index(self.shelf.fresh)

    async def list_records(self, start: int, count: int, where: dict[str, str] | None = None):
        """See `Shelf.page`."""
        return await self._with_index(lambda: self.shelf.fresh().page(start, count, where))

    async def one_record(self, key: str) -> dict[str, Any]:
        """See `Shelf.record`. Raises Refused for a key that is not in the index."""
        try:
            return await self._with_index(lambda: self.shelf.fresh().record(key))
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
        options: dict,
    ) -> list[Hit]:
        index = self.shelf.fresh().index
        if gone := next((key for key in like if key not in index), None):
            raise Refused(404, f"there is no record {shortened(gone)!r}")
        return run_search(index, self.encoder, vectors, k=k, weights=weights, like=like, **options)

    def _decoded(self, record: Record) -> Decoded:
        return {
            name: decoded(self.model.fields[name], name, raw, self.limits)
            for name, raw in record.items()
        }

    @torch.inference_mode()
    def _see(self, records: Sequence[Decoded]) -> list[Seen]:
        columns = {}
        for name, modality in self.model.fields.items():
            rows = [i for i, record in enumerate(records) if name in record]
            values = modality.collate([records[i][name] for i in rows])
            columns[name] = Column(values, torch.tensor(rows, dtype=torch.int64))
        # every record has the same key and so the same seed: what it gets does not depend on who it
        # came with
        batch = Batch.of(len(records), columns, [""] * len(records)).to(self.model.device)
        features = self.encoder.features(batch)
        aligned, features = to_cpu(self.encoder.project(features)), to_cpu(features)
        found = [Seen({}, {}) for _ in records]
        for space, embeddings in (("aligned", aligned), ("features", features)):
            columns = {s: embeddings[s] for s in embeddings.sources}
            if space == "aligned" or FUSED in embeddings:
                columns[FUSED] = embeddings.fused()
            for source, column in columns.items():
                for row, vector in zip(column.rows.tolist(), column.values.numpy()):
                    getattr(found[row], space)[source] = vector
        several = self.encoder.multi_vector
        if several is not None and several.queries_are_lists:
            for name, column in batch.columns.items():
                lists = several.of_query(self.encoder, batch, name).split() if len(column) else ()
                for row, vectors in zip(column.rows.tolist(), lists):
                    found[row].asked[name] = vectors.float().cpu().numpy()
        head = self.model.head
        if head is not None:
            told = (
                head.method.predict(batch).to("cpu")
                if isinstance(head, MethodPredictor)
                else head.predict(features)
            )
            for target, values in head.predictions(told).items():
                for row, value in zip(told.rows.tolist(), values.numpy()):
                    found[row].told[target] = value
        return found


def said(service: Service, seen: Seen) -> dict[str, Any]:
    """The predictions of one record for JSON: of classes the likeliest, and the probability of
    each; of others a number."""
    answer = {}
    for target in service.model.head.targets:
        value = finite(seen.told[target.name]) if target.name in seen.told else None
        if value is None:  # it tells nothing of a record with these fields
            answer[target.name] = {"told": None}
        elif target.kind == "classes":
            named = dict(zip(target.classes, value.tolist()))
            answer[target.name] = {"told": max(named, key=named.get), "probabilities": named}
        else:
            name = f"log hazard of {target.labels[1]}" if target.kind == "survival" else target.name
            answer[name] = {"told": float(value)}
    return answer


def finite(value: np.ndarray) -> np.ndarray:
    """The same. Raises Refused for what no encoder should make and JSON cannot say."""
    if not np.isfinite(value).all():
        raise Refused(
            422, "the numbers of this record are so large that the encoder makes nothing of them"
        )
    return value
