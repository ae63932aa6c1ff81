"""Cross-modal retrieval: Recall@k, mean reciprocal rank and median rank.

For every pair of fields, both ways, in the aligned space, by cosine (|cosine| where the encoder's
`similarity` is "abs_cosine"), among the test records that have both. Equal gallery values (the same
caption twice) are equally right. Ties count as they would on average if they were broken at random.
So an encoder that maps everything to one point scores chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.matmul import fast_products
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.needs import TWO_FIELDS, require_two_fields
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.stats.paired_bootstrap import Mean

MAX_SIMILARITIES = 2**21
"""Computed at once: a tile of them stays in the cache while it is compared."""
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
    }
    return Result("retrieval", spec, rows)


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
    sizes = np.ones(n, dtype=np.int64) if same_N is None else _group_sizes(same_N)
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


def ranks(
    query_ND: Tensor, gallery_ND: Tensor, same_N: Tensor | None = None, abs_cosine: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks of the right answers.

    Args:
        query_ND: Queries.
        gallery_ND: Gallery.
        same_N: See `ranked`.
        abs_cosine: See `ranked`.

    Returns:
        Three (N,) float64: how many wrong gallery vectors are nearer than the nearest right one,
        how many are as near, and how many right ones are as near, itself among them.
    """
    query, gallery = normalize(query_ND.float(), dim=1), normalize(gallery_ND.float(), dim=1)
    n, ahead, tied, equal = len(query), [], [], []
    step = max(1, MAX_SIMILARITIES // max(n, 1))
    for start in range(0, n, step):
        similarity = query[start : start + step] @ gallery.T
        similarity = similarity.abs() if abs_cosine else similarity
        number = torch.arange(start, start + len(similarity))
        if same_N is None:
            right = similarity.gather(1, number[:, None])
            ahead.append((similarity > right).sum(1))
            tied.append((similarity == right).sum(1) - 1)
            equal.append(torch.ones(len(similarity)))
        else:
            wrong = same_N[number, None] != same_N
            right = similarity.masked_fill(wrong, -torch.inf).amax(1, keepdim=True)
            ahead.append(((similarity > right) & wrong).sum(1))
            tied.append(((similarity == right) & wrong).sum(1))
            equal.append(((similarity == right) & ~wrong).sum(1))
    first, second, third = (torch.cat(part).double() for part in (ahead, tied, equal))
    return first, second, third


def hits(ahead_N: Tensor, tied_N: Tensor, equal_N: Tensor, k: int) -> Tensor:
    """Expected hits among the first k, with ties broken at random.

    Args:
        ahead_N: See `ranks`.
        tied_N: See `ranks`.
        equal_N: See `ranks`.
        k: Places.

    Returns:
        (N,) probabilities that a right one is among the first k.
    """
    places = (k - ahead_N).clamp(min=0)
    # all places go to wrong ones: C(tied, places) / C(tied + equal, places)
    wrong = torch.minimum(places, tied_N)
    miss = (
        torch.lgamma(tied_N + 1)
        - torch.lgamma(tied_N - wrong + 1)
        - torch.lgamma(tied_N + equal_N + 1)
        + torch.lgamma(tied_N + equal_N - wrong + 1)
    ).exp()
    # one right one: without the rounding of gamma functions
    single = 1 - places / (tied_N + 1)
    miss = torch.where(equal_N == 1, single, miss)
    return 1 - torch.where(places > tied_N, 0.0, miss).clamp(0, 1)


def reciprocal_ranks(ahead_N: Tensor, tied_N: Tensor, equal_N: Tensor) -> Tensor:
    """(N,) expected 1 / rank of the first right one, with ties broken at random. See `hits`."""
    # one right one: the mean of 1/rank over ahead + 1 … ahead + tied + 1
    mean = (torch.digamma(ahead_N + tied_N + 2) - torch.digamma(ahead_N + 1)) / (tied_N + 1)
    more = ((equal_N > 1) & (tied_N > 0)).nonzero().squeeze(1)
    if not len(more):
        return mean
    cases = torch.stack([ahead_N[more], tied_N[more], equal_N[more]], 1)
    unique, which = torch.unique(cases, dim=0, return_inverse=True)
    values = []
    for ahead, tied, equal in unique.tolist():
        # P(no right one among the first r): product over i < r of (tied - i) / (tied + equal - i)
        i = torch.arange(int(tied), dtype=torch.float64)
        miss = torch.cat([torch.ones(1).double(), ((tied - i) / (tied + equal - i)).cumprod(0)])
        first = miss - torch.cat([miss[1:], torch.zeros(1).double()])
        values.append((first / (ahead + 1 + torch.arange(len(first)))).sum())
    return mean.index_copy(0, more, torch.stack(values)[which])


def _group_sizes(same: Tensor) -> np.ndarray:
    """How many equal values there are of each."""
    _, inverse, counts = np.unique(same.numpy(), return_inverse=True, return_counts=True)
    return counts[inverse]


def chance_of(sizes: np.ndarray, n: int, recall_at: Sequence[int]) -> dict[str, float]:
    """What random ranks give.

    Args:
        sizes: (N,) right answers of each query.
        n: Size of the gallery.
        recall_at: The k of Recall@k.

    Returns:
        Metric -> its value.
    """
    total = {f"recall@{k}": 0.0 for k in recall_at} | {"MRR": 0.0, "median rank": 0.0}
    rank = np.arange(1, n + 1)
    cumulative = np.zeros(n)
    for m, count in zip(*np.unique(sizes, return_counts=True)):
        # P(no right one among the first r) = product over i < r of (n - m - i) / (n - i)
        miss = np.cumprod(np.clip(n - m - (rank - 1), 0, None) / (n - (rank - 1)))
        # P(the first right one is at rank r)
        first = np.diff(np.concatenate([[1.0], miss])) * -1
        for k in recall_at:
            total[f"recall@{k}"] += count * (1 - miss[min(k, n) - 1])
        total["MRR"] += count * (first / rank).sum()
        cumulative += count * (1 - miss)
    chance = {name: float(value / len(sizes)) for name, value in total.items()}
    chance["median rank"] = float(np.searchsorted(cumulative / len(sizes), 0.5) + 1)
    return chance


class Retrieval(Protocol):
    """Records of one field retrieved by another."""

    name, needs, needed = "retrieval", (TWO_FIELDS,), (no_record, every_record)
    compares_fields = True
    rank = 60
    yardstick = True
    measure = staticmethod(retrieval)


PROTOCOL = Retrieval()
