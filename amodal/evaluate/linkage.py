"""Records linked by their vectors: to the nearest of known exemplars or to none, or to each other
where nothing is known.

As Arora et al. 2023, arXiv:2304.03464: an index of exemplars with a threshold, else single-linkage
clusters; thresholds are chosen on validation records. The adjusted Rand index: Hubert and Arabie
1985.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def nearest_exemplar(
    query_ND: Tensor, exemplar_MD: Tensor, *, threshold: float = -1.0, tile: int = 1024
) -> Tensor:
    """(N,) int64: the exemplar with the largest cosine to each query, -1 where that is below the
    threshold."""
    key, found = normalize(exemplar_MD, dim=1), []
    for part in normalize(query_ND, dim=1).split(tile):
        cosine, at = (part @ key.T).max(1)
        found.append(torch.where(cosine >= threshold, at, -1))
    return torch.cat(found)


def single_linkage(z_ND: Tensor, threshold: float, *, tile: int = 1024) -> np.ndarray:
    """(N,) int64, the cluster of each row: rows are together if a chain of cosines of at least
    `threshold` leads from one to the other."""
    unit, label = normalize(z_ND, dim=1), torch.arange(len(z_ND))
    while True:  # everybody takes the least label of its neighbours, and of whom that label is
        near = [
            torch.where(part @ unit.T >= threshold, label, len(unit)).amin(1)
            for part in unit.split(tile)
            if len(part)
        ]
        new = torch.minimum(label, torch.cat(near)) if near else label
        new = new[new]
        if torch.equal(new, label):
            return np.unique(label.numpy(), return_inverse=True)[1]
        label = new


def adjusted_rand(one_N: Sequence, other_N: Sequence) -> float:
    """1 for equal divisions, 0 on average for independent ones: pairs on which both agree, beyond
    those by chance."""
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
    """The candidate with the highest score, of equals the middle one: a threshold far from where it
    changes anything."""
    scores = np.array([score(c) for c in candidates])
    at = np.flatnonzero(scores == scores.max())
    return float(candidates[at[len(at) // 2]])
