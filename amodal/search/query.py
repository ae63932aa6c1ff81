"""Search an index by words, a picture, a sound, any other field, vectors, or a mix of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from amodal.console import stderr
from amodal.core import AmodalError, unknown
from amodal.core.argument_types import check_type, has_names, is_list_of_words, is_whole
from amodal.data import Dataset
from amodal.evaluate.contact_sheet import Card, card, sheet
from amodal.inference.compose import change_field, compose
from amodal.inference.embed import embed_queries, embed_values
from amodal.inference.query import Hit, field_for
from amodal.modalities import Raw, name_of
from amodal.nn.encoder import Encoder
from amodal.search.engine import Engine
from amodal.search.filter import Where

LIKE = "like:"
"""Prefix of the name of a part of a query that is a record of the index: `like:KEY`."""

Query = Mapping[str, Raw | Sequence[Raw] | Tensor]


def search(
    index: Engine,
    encoder: Encoder,
    query: Query,
    *,
    k: int = 10,
    where: Where | None = None,
    fields: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    like: Sequence[str] = (),
) -> list[Hit]:
    """Find the records nearest to a query.

    The query is the weighted mean of the unit vectors of its parts. An encoder that has learnt to
    compose (`scot`) composes instead, if the query has its change field and another part, and no
    weights. Each vector of a multi-vector query finds its own nearest (MaxSim). An encoder whose
    similarity is |cosine| should get queries of one part, as signs mean nothing there.

    Args:
        index: Where to search.
        encoder: Embeds the query.
        query: A field of the encoder, or a kind of data (text, image, audio, …) of which it has
            one field -> a raw value, a list of them, or vectors (D,) or (n, D) as a Tensor.
        k: How many records.
        where: See `amodal.search.filter.Where`.
        fields: Of the records, to compare with; all if None.
        weights: Name of a part -> its weight, 1 by default; a negative one means "unlike".
        like: Keys of records that are parts of the query, under the name `like:KEY`. They are not
            among the hits.

    Returns:
        The hits, best first.

    Raises:
        AmodalError: For unknown names, and values that cannot be read.
    """
    check_type("k", k, is_whole, "a whole number")
    check_type("fields", fields, lambda f: f is None or f, "a list of names, or None for all")
    check_type("fields", fields or (), is_list_of_words, "a list of names, such as ['image']")
    check_type("like", like, is_list_of_words, "a list of names of records")
    check_type("weights", weights or {}, _has_weights, "a dict of part -> finite number")
    query = {**query, **{f"{LIKE}{key}": _recorded(index, key) for key in like}}
    if not query:
        raise AmodalError(
            f"a query needs something to look for; this encoder takes {', '.join(encoder.fields)}"
        )
    for name, value in query.items():
        if isinstance(value, (list, tuple)) and not value:
            raise AmodalError(f"the part {name!r} of the query is empty")
    for name in weights or {}:
        if name not in query:
            raise unknown("part of this query", name, query, "It has a weight.")
    # Stand-ins for encoders, and ensembles, have neither.
    multi_vector = getattr(encoder, "multi_vector", None)
    unsigned = getattr(encoder, "similarity", "cosine") == "abs_cosine"
    shares: Tensor | None = None
    if multi_vector is not None and multi_vector.queries_are_lists:
        vectors, shares = query_vectors(encoder, query, weights or {})
    else:
        vectors = query_vector(encoder, query, weights)
    matches = index.nearest(
        vectors, k=k + len(like), weights=shares, fields=fields, where=where, unsigned=unsigned
    )
    return [
        Hit(
            key,
            score,
            source,
            labels,
            multi_vector.part(encoder, source, part)
            if multi_vector is not None and part >= 0
            else "",
            index.name_of(key),
        )
        for key, score, source, labels, part in matches
        if key not in like
    ][:k]


def _has_weights(value: Any) -> bool:
    return has_names(value) and all(
        isinstance(weight, Real) and math.isfinite(weight) for weight in value.values()
    )


def _recorded(index: Engine, key: str) -> Tensor:
    try:
        return index.vector(key)
    except KeyError:
        raise AmodalError(
            f"the index has no record {key!r}; the first column of `amodal search` shows the names"
        ) from None


def query_vector(encoder: Encoder, query: Query, weights: Mapping[str, float] | None) -> Tensor:
    """(D,): the parts of a query as one vector."""
    parts = {name: vector_of(encoder, name, value) for name, value in query.items()}
    total = composed(encoder, parts) if not weights else None
    if total is None:
        total = cast(
            Tensor, sum((weights or {}).get(name, 1.0) * vector for name, vector in parts.items())
        )
    if not total.norm() > 1e-6:
        raise AmodalError("the parts of this query cancel each other out; change their weights")
    return total


def query_vectors(
    encoder: Encoder, query: Query, weights: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """The vectors of a query for late interaction.

    Returns:
        (L, D) the vectors of all parts, and (L,) their weights. The weight of a part is divided
        among its vectors.

    Raises:
        AmodalError: For weights that are not above 0: "unlike" is not defined for lists.
    """
    lists, shares = [], []
    for name, value in query.items():
        if isinstance(value, Tensor):
            flat = value.reshape(-1, value.shape[-1]).float().cpu()
        else:
            field = field_for(encoder, name)
            flat = embed_queries(encoder, field, encoder.fields[field].queries(value)).flat
        if not len(flat):
            raise AmodalError(f"the part {name!r} of the query is empty")
        weight = weights.get(name, 1.0)
        if not weight > 0:
            raise AmodalError(
                f"the weight of {name} is {weight}; this run searches by each token of a query, "
                "and "
                "their weights must be above 0"
            )
        lists.append(flat)
        shares.append(torch.full((len(flat),), weight / len(flat)))
    return torch.cat(lists), torch.cat(shares)


def composed(encoder: Encoder, parts: Mapping[str, Tensor]) -> Tensor | None:
    """(D,): the reference (the mean of the other parts) with the change applied; None if the
    encoder cannot compose, or the query has nothing to compose."""
    if not (field := change_field(encoder)):
        return None
    changes, others = (
        [v for n, v in parts.items() if is_field(encoder, n, field) is wanted]
        for wanted in (True, False)
    )
    if not changes or not others:
        return None
    reference, change = (torch.stack(each).mean(0, keepdim=True) for each in (others, changes))
    return compose(encoder, reference, change)[0]


def is_field(encoder: Encoder, name: str, field: str) -> bool:
    """Whether a part of a query is of this field; parts that are vectors may have any name."""
    return name == field or name not in encoder.fields and name == name_of(encoder.fields[field])


def vector_of(encoder: Encoder, name: str, value: Raw | Sequence[Raw] | Tensor) -> Tensor:
    """(D,) unit vector of one part of a query: the mean of the unit vectors of its values."""
    if isinstance(value, Tensor):
        vectors = value.reshape(-1, value.shape[-1]).float().cpu()
    else:
        field = field_for(encoder, name)
        vectors = embed_values(encoder, field, encoder.fields[field].queries(value))
    if not len(vectors):
        raise AmodalError(f"the part {name!r} of the query is empty")
    return normalize(normalize(vectors, dim=1).mean(0), dim=0)


def table(hits: Sequence[Hit]) -> Table:
    """Hits for a terminal."""
    shown = Table(caption=None if hits else "nothing found: no record passes the filter")
    names = list(dict.fromkeys(name for hit in hits for name in hit.labels))[:4]
    shown.add_column("", justify="right")
    shown.add_column("record", overflow="fold")
    called = any(hit.name for hit in hits)
    if called:
        shown.add_column("name", overflow="fold")
    shown.add_column("score", justify="right")
    shown.add_column("by")
    for name in names:
        shown.add_column(name)
    for place, hit in enumerate(hits, 1):
        by = f"{hit.source}: {hit.part}" if hit.part else hit.source
        name_cell = [hit.name] if called else []
        labels = (_cell(hit.labels.get(n)) for n in names)
        shown.add_row(str(place), hit.key, *name_cell, f"{hit.score:.3f}", by, *labels)
    return shown


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(hits: Sequence[Hit]) -> str:
    """Hits as a JSON list of {key, score, source, labels, part, name}."""
    return json.dumps(
        [asdict(hit) | {"score": round(hit.score, 5)} for hit in hits], indent=1, ensure_ascii=False
    )


def picture_sheet(
    hits: Sequence[Hit], dataset: Dataset, path: str | Path, *, fields: Sequence[str] | None = None
) -> Path:
    """Draw a row for each hit, with a picture of every field of the record.

    Args:
        hits: To draw. Records that the dataset no longer has are skipped with a note.
        dataset: Has the records.
        path: Of the picture.
        fields: To draw; all if None.

    Raises:
        AmodalError: If the dataset has none of the records.
    """
    if not hits:
        raise AmodalError("there are no hits to draw")
    place = {key: i for i, key in enumerate(dataset.keys)}
    fields, rows = list(fields or dataset.fields), []
    gone = [hit.key for hit in hits if hit.key not in place]
    if len(gone) == len(hits):
        raise AmodalError(
            f"{dataset.name!r} has no record {gone[0]!r} nor any other hit; give the data that was "
            "indexed"
        )
    if gone:
        named = ", ".join(gone[:3]) + (", …" if len(gone) > 3 else "")
        note = (
            f"{len(gone)} of {len(hits)} hits are not drawn, {dataset.name!r} no longer has them: "
            f"{named}"
        )
        stderr().print(note, highlight=False, markup=False, soft_wrap=True)
    for number, hit in enumerate(hits, 1):
        if hit.key not in place:
            continue
        cards: list[Card] = []
        for name in fields:
            title = f"{number}. {hit.key}  {hit.score:.2f}" if not cards else name
            cards.append(
                card(
                    dataset,
                    place[hit.key],
                    name,
                    title,
                    frame="#009E73" if name == hit.source else "",
                )
            )
        rows.append(cards)
    return sheet(rows, path, title="nearest records (green: the field that was nearest)")
