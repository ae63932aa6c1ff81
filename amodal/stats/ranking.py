"""Ranks of right answers among vectors, and the metrics of retrieval that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

MAX_SIMILARITIES = 2**21
"""Computed at once: a tile of them stays in the cache while it is compared."""


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

    def score(start: int, stop: int) -> Tensor:
        similarity = query[start:stop] @ gallery.T
        return similarity.abs() if abs_cosine else similarity

    return ranks_by(score, len(query), same_N)


def ranks_by(
    score: Callable[[int, int], Tensor], n: int, same_N: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ranks`, of any scores.

    Args:
        score: (start, stop) -> (stop - start, n) scores of those queries, higher is nearer. The
            right one of a query has its number.
        n: Queries.
        same_N: See `ranked`.
    """
    ahead, tied, equal = [], [], []
    step = max(1, MAX_SIMILARITIES // max(n, 1))
    for start in range(0, n, step):
        similarity = score(start, min(start + step, n))
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


def average_precisions(
    query_ND: Tensor,
    gallery_MD: Tensor,
    right: Callable[[int], Tensor],
    abs_cosine: bool = False,
) -> Tensor:
    """Average precision of each query, expected where ties are broken at random.

    Args:
        query_ND: Queries.
        gallery_MD: Gallery.
        right: Number of a query -> (M,) bool, which of the gallery are right for it.
        abs_cosine: See `ranked`.

    Returns:
        (N,) float64; NaN for a query for which nothing is right.
    """
    query, gallery = normalize(query_ND.float(), dim=1), normalize(gallery_MD.float(), dim=1)
    place = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    values = []
    for i, vector in enumerate(query):
        similarity = gallery @ vector
        ranked, order = torch.sort(similarity.abs() if abs_cosine else similarity, descending=True)
        _, tie, size = torch.unique_consecutive(ranked, return_inverse=True, return_counts=True)
        right_of_tie = torch.zeros(len(size), dtype=torch.float64)
        right_of_tie.index_add_(0, tie, right(i)[order].double())
        # of the group of equals at a place: its size, its right ones, and what comes before it
        m, r = size[tie].double(), right_of_tie[tie]
        ahead, right_ahead = (
            (total.cumsum(0) - total)[tie] for total in (size.double(), right_of_tie)
        )
        # a right one at place j of the group has (j - 1) (r - 1) / (m - 1) right ones before it
        # there
        within = (place - ahead - 1) * (r - 1) / (m - 1).clamp(min=1)
        precision = r / m * (right_ahead + 1 + within) / place
        values.append(precision.sum() / right_of_tie.sum())
    return torch.stack(values) if values else torch.zeros(0, dtype=torch.float64)


def chance_of_average_precision(sizes: np.ndarray, n: int) -> np.ndarray:
    """The average precision of random ranks.

    Args:
        sizes: (N,) right answers of each query, at least 1.
        n: Size of the gallery.
    """
    harmonic = (1 / np.arange(1, n + 1)).sum()
    share = (sizes - 1) / max(n - 1, 1)
    out: np.ndarray = (harmonic * (1 - share) + n * share) / n
    return out


def group_sizes(same: Tensor) -> np.ndarray:
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
