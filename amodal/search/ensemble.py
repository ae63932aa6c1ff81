"""An ensemble of models: their vectors end to end in one index, so that a product is the weighted
mean of their cosines (V2L, arXiv:2207.12994), or that mean over an index of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.argument_types import check_type, is_whole
from amodal.inference.query import Hit
from amodal.nn.encoder import Encoder
from amodal.nn.run_ensemble import checked_weights
from amodal.search.engine import Engine
from amodal.search.query import Query, search


def ensemble(vectors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Join the vectors of models.

    Args:
        vectors: (N, D_m) of each model m, for the same records, of any norm.
        weights: w_m, at least 0 and not all 0; equal if None.

    Returns:
        (N, sum of D_m) unit vectors, whose products are sum_m w_m cos_m / sum_m w_m.

    Raises:
        AmodalError: If the numbers of records or of weights do not fit.
    """
    weights = [1.0] * len(vectors) if weights is None else list(weights)
    if not vectors or len({len(v) for v in vectors}) > 1:
        raise AmodalError(
            f"an ensemble needs vectors of the same records, got {[len(v) for v in vectors]}"
        )
    if len(weights) != len(vectors) or min(weights) < 0 or not sum(weights):
        raise AmodalError(
            f"{len(vectors)} models need as many weights of at least 0, not all of them 0; got "
            f"{weights}"
        )
    share = [(w / sum(weights)) ** 0.5 for w in weights]
    return torch.cat([s * normalize(v, dim=1) for s, v in zip(share, vectors)], 1)


def search_ensemble(
    members: Sequence[tuple[Engine, Encoder]],
    query: Query,
    *,
    ensemble_weights: Sequence[float] | None = None,
    k: int = 10,
    weights: Mapping[str, float] | None = None,
    **options: Any,
) -> list[Hit]:
    """Find the records nearest to a query by the weighted mean of the scores of many indexes.

    Every index ranks all of its records, as its own search does, by the cosine of the nearest of
    the fields that are searched. A record that one of them cannot score, as it lacks the fields
    that this run reads, has the mean of the others.

    Args:
        members: Index and encoder of each run. Indexes are of the same records.
        query: As in `amodal.search.search`; every encoder embeds it.
        ensemble_weights: Of the runs, above 0; equal if None.
        k: How many records.
        weights: Of the parts of the query.
        options: Of `amodal.search.search`: where, fields, like.

    Returns:
        The hits, best first; `source` is the field that the run with the largest share of the score
        was nearest by.

    Raises:
        AmodalError: If indexes hold other records, and what a search raises.
    """
    shares = checked_weights(ensemble_weights, len(members))
    _check_same([index for index, _ in members])
    check_type("k", k, is_whole, "a whole number")
    if k < 1:
        raise AmodalError(f"k = {k}: at least one record must be asked for")
    total: dict[str, float] = {}
    share_of: dict[str, float] = {}
    best: dict[str, tuple[float, Hit]] = {}
    for share, (index, encoder) in zip(shares, members):
        for hit in search(index, encoder, query, k=len(index), weights=weights, **options):
            part = share * hit.score
            total[hit.key] = total.get(hit.key, 0.0) + part
            share_of[hit.key] = share_of.get(hit.key, 0.0) + share
            if hit.key not in best or part > best[hit.key][0]:
                best[hit.key] = part, hit
    score = {key: value / share_of[key] for key, value in total.items()}
    order = sorted(score, key=lambda key: (-score[key], key))[:k]
    return [
        Hit(key, score[key], best[key][1].source, best[key][1].labels, best[key][1].part)
        for key in order
    ]


def _check_same(indexes: Sequence[Engine]) -> None:
    """Raises AmodalError unless all indexes hold the same records."""
    first = set(indexes[0].keys)
    for index in indexes[1:]:
        if differ := first.symmetric_difference(index.keys):
            one = min(differ)
            where, where_not = (indexes[0], index) if one in first else (index, indexes[0])
            raise AmodalError(
                f"the indexes of an ensemble hold the same records, but {len(differ):,} are in one "
                f"alone, such as {one!r} in {where.path} and not in {where_not.path}; index the "
                "same data by each run: amodal index RUN --data DATA --prune"
            )
