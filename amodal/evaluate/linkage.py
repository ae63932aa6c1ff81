"""Record linkage by vectors: to the nearest known exemplar or none, or by clustering.

As Arora et al. 2023, arXiv:2304.03464: an index of exemplars with a threshold, else single-linkage
clusters; thresholds are chosen on validation records. The adjusted Rand index: Hubert and Arabie
1985.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize


def nearest_exemplar(
    query_ND: Tensor, exemplar_MD: Tensor, *, threshold: float = -1.0, tile: int = 1024
) -> Tensor:
    """Link each query to its nearest exemplar by cosine.

    Args:
        query_ND: Vectors of the queries.
        exemplar_MD: Vectors of the exemplars.
        threshold: Cosine below which a query has no match.
        tile: Queries compared at once.

    Returns:
        (N,) int64 exemplars, -1 for no match.
    """
    key, chosen = normalize(exemplar_MD, dim=1), []
    for part in torch.split(normalize(query_ND, dim=1), tile):
        cosine, index = (part @ key.T).max(1)
        chosen.append(torch.where(cosine >= threshold, index, -1))
    return torch.cat(chosen)


def single_linkage(z_ND: Tensor, threshold: float, *, tile: int = 1024) -> np.ndarray:
    """Single-linkage clusters.

    Two rows are in one cluster if a chain of cosines of at least `threshold` connects them.

    Args:
        z_ND: Vectors.
        threshold: Of the cosine.
        tile: Rows compared at once.

    Returns:
        (N,) int64 cluster of each row.
    """
    unit, label = normalize(z_ND, dim=1), torch.arange(len(z_ND))
    while True:  # each row takes the least label of its neighbours, then that label's own label
        near = [
            torch.where(part @ unit.T >= threshold, label, len(unit)).amin(1)
            for part in torch.split(unit, tile)
            if len(part)
        ]
        new = torch.minimum(label, torch.cat(near)) if near else label
        new = new[new]
        if torch.equal(new, label):
            return np.unique(label.numpy(), return_inverse=True)[1]
        label = new


def adjusted_rand(one_N: ArrayLike, other_N: ArrayLike) -> float:
    """Adjusted Rand index of two clusterings of the same rows: 1 for equal ones, 0 by chance."""
    (i, a), (j, b) = (
        np.unique(np.asarray(x), return_inverse=True, return_counts=True)[1:]
        for x in (one_N, other_N)
    )
    table = np.zeros((len(a), len(b)))
    np.add.at(table, (i, j), 1)
    both, first, second, every = (
        (x * (x - 1) / 2).sum() for x in (table, a, b, np.array([len(i)]))
    )
    expected, most = first * second / max(every, 1), (first + second) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def best_threshold(score: Callable[[float], float], candidates: Sequence[float]) -> float:
    """The candidate with the highest score.

    Of equals it is the middle one: a threshold far from where it changes anything.
    """
    scores = np.array([score(c) for c in candidates])
    best = np.flatnonzero(scores == scores.max())
    return float(candidates[best[len(best) // 2]])
