"""Filters, requests and collections in Qdrant's terms: see `amodal.search.qdrant`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.search._qdrant_points import ALL_FIELDS, CARD, path_of
from amodal.search.engine import Labels
from amodal.search.filter import Where, bounds, choices

if TYPE_CHECKING:
    from qdrant_client.models import Filter, QueryRequest, QueryResponse, VectorParams


def vectors_config(
    fields: Sequence[str], multi_vector: Sequence[str], width: int
) -> dict[str, VectorParams]:
    """The vectors of a new collection.

    Args:
        fields: That get vectors.
        multi_vector: Those of them that get lists of vectors.
        width: Dimensions.
    """
    from qdrant_client import models

    half = models.Datatype.FLOAT16
    one = models.VectorParams(size=width, distance=models.Distance.COSINE, datatype=half)
    # The norms of a query's vectors are their weights, which cosines would not see; vectors of
    # records have norm 1.
    max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    lists = models.VectorParams(
        size=width, distance=models.Distance.DOT, datatype=half, multivector_config=max_sim
    )
    vectors = {quote(field, safe=""): lists if field in multi_vector else one for field in fields}
    return vectors | ({ALL_FIELDS: lists} if len(multi_vector) > 1 else {})


def filter_of(
    where: Where | None, kinds: Mapping[str, str], check_value: Callable[[str, str], None]
) -> Filter:
    """The records that pass.

    Args:
        where: See `Where`.
        kinds: label -> "category" or "number".
        check_value: Raises AmodalError for a value that no record has of a label.

    Raises:
        AmodalError: For functions, and for unknown labels and values, with the nearest ones.
    """
    from qdrant_client import models

    if callable(where):
        raise AmodalError(
            "a filter that is a function cannot be sent to a Qdrant server; give labels and what "
            "they must be"
        )
    must: list[Any] = []
    for name, wanted in (where or {}).items():
        if name not in kinds:
            raise unknown("label in this index", name, kinds)
        if kinds[name] == "number":
            low, high = (None if np.isinf(b) else b for b in bounds(name, wanted))
            must.append(
                models.FieldCondition(key=path_of(name), range=models.Range(gte=low, lte=high))
            )
            continue
        for choice in choices(wanted):
            check_value(name, choice)
        must.append(
            models.FieldCondition(key=path_of(name), match=models.MatchAny(any=choices(wanted)))
        )
    return models.Filter(must=must, must_not=[models.HasIdCondition(has_id=[CARD])])


def requests_of(
    query_LD: np.ndarray,
    k: int,
    lists: Mapping[str, bool],
    passes: Filter,
    *,
    unsigned: bool,
    exact: bool,
) -> list[tuple[str, QueryRequest]]:
    """A request for each field, two for |cosine|.

    Args:
        query_LD: The query's vectors.
        k: How many records.
        lists: field -> whether it has lists of vectors.
        passes: The filter.
        unsigned: Rank by |cosine|.
        exact: Do not use the graph.

    Returns:
        (field, request) each.
    """
    from qdrant_client import models

    params = models.SearchParams(exact=True) if exact else None
    requests = []
    for field, has_lists in lists.items():
        # A sum of products with one vector is the product with the sum.
        query = query_LD if has_lists else query_LD.sum(0)
        for sign in (1, -1) if unsigned else (1,):
            request = models.QueryRequest(
                query=(sign * query).tolist(),
                using=ALL_FIELDS if field == ALL_FIELDS else quote(field, safe=""),
                limit=k,
                filter=passes,
                with_payload=True,
                params=params,
            )
            requests.append((field, request))
    return requests


def best_of_fields(
    fields: Sequence[str], responses: Sequence[QueryResponse]
) -> dict[str, tuple[float, str, Labels]]:
    """key -> score, field and labels, of the response in which a record scores highest.

    Args:
        fields: Of the responses.
        responses: To `requests_of`.
    """
    best: dict[str, tuple[float, str, Labels]] = {}
    for field, response in zip(fields, responses):
        for point in response.points:
            payload = point.payload or {}
            key = payload["key"]
            if key not in best or point.score > best[key][0]:
                best[key] = (float(point.score), field, payload["labels"])
    return best
