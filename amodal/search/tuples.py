"""Rank records by all of their fields together, and judge the first ones by a matching head.

`by_volume` is the retrieval of GRAM (Cicchetti et al., ICLR 2025, arXiv:2412.11959, section 3): the
volume that the vectors of a query span with those of a record. `rerank` puts what an index finds in
the order of a network that reads both (Li et al., ALBEF, 2021, arXiv:2107.07651).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from amodal.core import AmodalError, Batch, Column, unknown
from amodal.core.protocols import MatchesFields
from amodal.data import Dataset
from amodal.inference.embed import device_of, value_batches
from amodal.inference.forward_passes import eval_mode, sequential_loader
from amodal.inference.query import Hit, field_for
from amodal.methods.contract import Method
from amodal.modalities import Raw
from amodal.nn.encoder import Encoder
from amodal.objectives.gram_volume import volumes
from amodal.search.engine import Engine
from amodal.search.filter import Where
from amodal.search.index import Index
from amodal.search.query import Query, vector_of

BATCH = 64
"""Pairs that are judged at once."""


def by_volume(
    index: Engine,
    encoder: Encoder,
    query: Query,
    *,
    k: int = 10,
    where: Where | None = None,
    fields: Sequence[str] | None = None,
) -> list[Hit]:
    """Find the records whose fields span the least volume with the query.

    Volumes of different numbers of vectors do not compare, so only records with all of the fields
    are ranked.

    Args:
        index: In a folder; every record is scored.
        encoder: Embeds the query.
        query: As of `amodal.search.search`. Each part is a vector of its own.
        k: How many records.
        where: See `amodal.search.filter.Where`.
        fields: Of the records; by default all that the query does not ask by.

    Returns:
        The hits, the least volume first, which is their score.

    Raises:
        AmodalError: Without a query or a field to compare with, where no record has all fields, and
            for an index on a server.
    """
    if not isinstance(index, Index):
        raise AmodalError(
            "volumes are computed from an index in a folder, all records at a time; leave --index "
            "out, or --volume"
        )
    if not query:
        raise AmodalError(
            f"a query needs something to look for; this encoder takes {', '.join(encoder.fields)}"
        )
    if k < 1:
        raise AmodalError(f"k = {k}: at least one record must be asked for")
    parts = [vector_of(encoder, name, value) for name, value in query.items()]
    asked = {field_for(encoder, n) for n, v in query.items() if not isinstance(v, torch.Tensor)}
    names = list(fields) if fields is not None else [s for s in index.sources if s not in asked]
    for name in names:
        if name not in index.sources:
            raise unknown("field in this index", name, index.sources)
    if not names:
        raise AmodalError(
            f"the query has every field of the index ({', '.join(index.sources)}), so nothing is "
            "left to span a volume with; name some by --fields"
        )
    numbers, vectors = index.complete(names, where)
    if not len(numbers):
        raise AmodalError(
            f"no record in the index that passes the filter has all of {', '.join(names)}; name "
            "fewer by --fields"
        )
    others = [torch.from_numpy(v.astype(np.float32)) for v in vectors]
    more = [part.expand(len(numbers), -1) for part in parts[1:]]
    volume = volumes(parts[0][None], [*others, *more])[0]
    first = volume.argsort(stable=True)[:k].tolist()
    return [
        Hit(match.key, match.score, match.field, match.labels)
        for match in (
            index.match(int(numbers[i]), float(volume[i]), " + ".join(names)) for i in first
        )
    ]


def rerank(
    hits: Sequence[Hit],
    method: Method | None,
    dataset: Dataset,
    query: Mapping[str, Raw],
    *,
    k: int = 10,
) -> list[Hit]:
    """Order records by the probability that they and the query belong together.

    Args:
        hits: What an index found.
        method: Has a matching head.
        dataset: Has the records, with the fields of the method.
        query: Field or kind of data -> one raw value. It takes the place of the record's own.
        k: How many records.

    Returns:
        The k likeliest, with the probability as their score. Records that cannot be judged, since
        they have no other field, are last and have probability 0.

    Raises:
        AmodalError: For a method without such a head, a query of vectors, and records that the
            dataset does not have.
    """
    if not isinstance(method, MatchesFields):
        raise AmodalError(
            "this run has no matching head to rank records by (gram, tip and others have); leave "
            "--rerank out"
        )
    place = {key: i for i, key in enumerate(dataset.keys)}
    if gone := [hit.key for hit in hits if hit.key not in place]:
        raise AmodalError(
            f"{dataset.name!r} has no record {gone[0]!r}, and the matching head reads the records "
            "themselves; give the data that was indexed by --data"
        )
    assert isinstance(method, Method)
    encoder = method.encoder
    values = {}
    for name, value in query.items():
        if isinstance(value, torch.Tensor | list | tuple):
            raise AmodalError(
                f"the matching head reads one raw value of {name}, not vectors or a list"
            )
        values[field_for(encoder, name)] = value
    logits: list[float] = []
    numbers = [place[hit.key] for hit in hits]
    with torch.no_grad(), eval_mode(method):
        for batch in sequential_loader(dataset, numbers, BATCH):
            asked = {f: next(value_batches(encoder, f, [v], 1))[f] for f, v in values.items()}
            judged = method.match_logits(_with_query(batch.to(device_of(encoder)), asked))
            row = torch.full((batch.size,), -torch.inf)
            row[judged.rows.cpu()] = judged.flat.float().cpu()
            logits += row.tolist()
    scored = [
        replace(hit, score=float(torch.tensor(logit).sigmoid())) for hit, logit in zip(hits, logits)
    ]
    order = sorted(range(len(hits)), key=lambda i: -logits[i])
    return [scored[i] for i in order[:k]]


def _with_query(batch: Batch, asked: Mapping[str, Column]) -> Batch:
    """The batch with the values of a query in every row."""
    rows = torch.arange(batch.size, device=batch.seeds.device)
    first = torch.zeros_like(rows)
    repeated = {f: Column(column.at(first).values, rows) for f, column in asked.items()}
    return replace(batch, columns={**batch.columns, **repeated})
