"""Cross-modal retrieval: Recall@k, mean reciprocal rank and median rank.

For every pair of fields, both ways, in the aligned space, by cosine (|cosine| where the encoder's
`similarity` is "abs_cosine"), among the test records that have both. Equal gallery values (the same
caption twice) are equally right. Ties count as they would on average if they were broken at random.
So an encoder that maps everything to one point scores chance.

With `category`, a label, also the mean average precision where all records of a query's category
are right (Rasiwasia et al. 2010).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.matmul import fast_products
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.needs import TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded, known
from amodal.stats.paired_bootstrap import Mean
from amodal.stats.ranking import (
    average_precisions,
    chance_of,
    chance_of_average_precision,
    group_sizes,
    hits,
    ranks,
    reciprocal_ranks,
)

MIN_RECORDS = 10
"""Below which a rank says nothing."""


def retrieval(
    train: Embedded | None,
    test: Embedded,
    *,
    recall_at: Sequence[int] = (10, 1, 5),
    pairs: Sequence[tuple[str, str]] | None = None,
    duplicates: bool = True,
    gallery: int = 20_000,
    category: str = "",
    seed: int = 0,
) -> Result:
    """Measure retrieval for pairs of fields.

    Args:
        train: Not used.
        test: Test records.
        recall_at: The k of Recall@k.
        pairs: (query, gallery) fields, all unless set.
        duplicates: Whether all gallery records with an equal value are right.
        gallery: Records at most, chosen by `seed`.
        category: A label whose records are all right for each other; none unless set.
        seed: Of that choice.

    Raises:
        NotApplicable: If no two fields occur together in enough records.
    """
    require_two_fields(test)
    rows: list[Row] = []
    for a, b in pairs or itertools.permutations(test.sources, 2):
        at_a, at_b = shared_rows(test.aligned[a], test.aligned[b])
        if len(at_a) > gallery:
            drawn = torch.from_numpy(
                np.sort(np.random.default_rng(seed).permutation(len(at_a))[:gallery])
            )
            at_a, at_b = at_a[drawn], at_b[drawn]
        if len(at_a) < MIN_RECORDS:
            continue
        same = test.content[b][at_b] if duplicates and b in test.content else None
        query, target = vectors_of(test.aligned[a])[at_a], vectors_of(test.aligned[b])[at_b]
        who = test.aligned[a].rows[at_a].numpy()
        metrics = ranked(query, target, same, recall_at, test.abs_cosine, who)
        if category:
            metrics += by_category(query, target, test.label(category)[who], test.abs_cosine, who)
        rows += [{"source": a, "target": b, **row} for row in metrics]
    if not rows:
        raise NotApplicable(
            f"no two fields occur together in {MIN_RECORDS} or more of the {len(test)} test records"
        )
    spec = {
        "recall_at": list(recall_at),
        "space": "aligned",
        "duplicates": duplicates,
        "gallery": gallery,
        "seed": seed,
        "test": len(test),
    } | ({"category": category} if category else {})
    return Result("retrieval", spec, rows)


def by_category(
    query_ND: Tensor, gallery_ND: Tensor, labels_N: np.ndarray, abs_cosine: bool, who: np.ndarray
) -> list[Row]:
    """The mean average precision of retrieval of the same category.

    Args:
        query_ND: Queries.
        gallery_ND: Gallery, of the same records.
        labels_N: Their categories; records without one are left out.
        abs_cosine: Whether to compare by |cosine|.
        who: (N,) numbers of the records.

    Returns:
        A row; none where fewer than MIN_RECORDS have a category.
    """
    labelled = np.flatnonzero(known(labels_N))
    if len(labelled) < MIN_RECORDS:
        return []
    codes = torch.from_numpy(np.unique(labels_N[labelled], return_inverse=True)[1])
    query, gallery = query_ND[labelled], gallery_ND[labelled]
    values = average_precisions(query, gallery, lambda i: codes == codes[i], abs_cosine).numpy()
    chance = chance_of_average_precision(group_sizes(codes), len(codes))
    return [
        {
            "metric": "MAP",
            "value": float(values.mean()),
            "chance": float(chance.mean()),
            "n": len(values),
            "outcome": Mean(who[labelled], values),
        }
    ]


@fast_products()
def ranked(
    query_ND: Tensor,
    gallery_ND: Tensor,
    same_N: Tensor | None = None,
    recall_at: Sequence[int] = (10, 1, 5),
    abs_cosine: bool = False,
    who: np.ndarray | None = None,
) -> list[Row]:
    """Metrics for queries whose right answer is the gallery vector of the same row.

    Args:
        query_ND: Queries.
        gallery_ND: Gallery.
        same_N: int64, equal where gallery values are equal; None if all differ.
        recall_at: The k of Recall@k.
        abs_cosine: Whether to compare by |cosine|.
        who: (N,) numbers of the records, for an `outcome` of each query; None for none.

    Returns:
        A row for each metric.
    """
    n = len(query_ND)
    ahead, tied, equal = ranks(query_ND, gallery_ND, same_N, abs_cosine)
    sizes = np.ones(n, dtype=np.int64) if same_N is None else group_sizes(same_N)
    chance = chance_of(sizes, n, recall_at)
    of_query = {f"recall@{k}": hits(ahead, tied, equal, k) for k in recall_at}
    of_query["MRR"] = reciprocal_ranks(ahead, tied, equal)
    values = {metric: value.mean() for metric, value in of_query.items()}
    values["median rank"] = (ahead + (tied + equal + 1) / (equal + 1)).median()
    rows: list[Row] = [
        {"metric": m, "value": float(v), "chance": chance[m], "n": n} for m, v in values.items()
    ]
    for row in rows:
        if who is not None and row["metric"] in of_query:
            row["outcome"] = Mean(who, of_query[row["metric"]].numpy())
    return rows


class Retrieval(Protocol):
    """Records of one field retrieved by another."""

    name, needs, needed = "retrieval", (TWO_FIELDS,), (no_record, every_record)
    compares_fields = True
    rank = 60
    yardstick = True
    measure = staticmethod(retrieval)


PROTOCOL = Retrieval()
