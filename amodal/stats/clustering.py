"""Clustering without training: Ward's agglomeration and spectral clustering, and scores of
clusterings.

Ward 1963 by chains of nearest neighbours (Murtagh 1983): O(N^2) time and memory. Spectral
clustering: Ng, Jordan & Weiss 2001. Adjusted mutual information: Vinh, Epps & Bailey, JMLR 2010,
eq. 24a, normalised by the mean of both entropies.

Ours. Ward: scikit-learn's makes the same clusters (a test compares them) in 0.9 s where this takes
1.1 s (2,000 rows), but numbers them otherwise, and sums over clusters then end in other digits.
Mutual information: scikit-learn's differs by 1e-13, which would change recorded claims. Spectral:
one eigendecomposition serves all numbers of clusters, and `kmeans` gives the same on every process.
Matching clusters to classes is scipy's `linear_sum_assignment`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from amodal.stats.kmeans import kmeans


def ward(x_ND: np.ndarray, clusters: int) -> np.ndarray:
    """Ward's agglomeration: merge the two clusters whose union adds the least variance.

    Args:
        x_ND: Vectors.
        clusters: How many are left.

    Returns:
        (N,) int64 cluster of each row.

    Raises:
        ValueError: Unless 1 <= clusters <= N.
    """
    n = len(x_ND)
    if not 1 <= clusters <= n:
        raise ValueError(f"{n} rows cannot make {clusters} clusters")
    x = np.asarray(x_ND, dtype=np.float64)
    length = np.square(x).sum(1)
    cost = np.maximum(length[:, None] + length - 2 * x @ x.T, 0)
    np.fill_diagonal(cost, np.inf)
    size, chain = np.ones(n), list[int]()
    merges: list[tuple[float, int, int]] = []
    # `cost` is twice what Ward's union would add (for single rows: the squared distance). A size of
    # 0 marks clusters that are part of another
    while len(merges) < n - 1:
        if not chain:
            chain = [int(np.flatnonzero(size)[0])]
        # links get no longer along the chain, so it ends in two that are nearest to each other:
        # Ward would merge these sooner or later, so they are merged now
        while True:
            last = chain[-1]
            nearest = int(cost[last].argmin())
            if len(chain) > 1 and cost[last, chain[-2]] <= cost[last, nearest]:
                break
            chain.append(nearest)
        a, b = chain.pop(), chain.pop()
        height = cost[a, b]
        merges.append((height, a, b))
        # Ward's update of Lance and Williams 1967, from the costs alone
        with np.errstate(invalid="ignore"):  # clusters that are no more are infinitely far
            cost[a] = ((size + size[a]) * cost[a] + (size + size[b]) * cost[b] - size * height) / (
                size + size[a] + size[b]
            )
        size[a], size[b] = size[a] + size[b], 0
        cost[a, a], cost[a, size == 0] = np.inf, np.inf
        cost[:, a], cost[b], cost[:, b] = cost[a], np.inf, np.inf
    return _cut(merges, n, clusters)


def _cut(merges: Sequence[tuple[float, int, int]], n: int, clusters: int) -> np.ndarray:
    """The clusters after the n - clusters cheapest merges. For Ward these never contain a dearer
    one."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    order = np.argsort([height for height, *_ in merges], kind="stable")
    for _, a, b in (merges[i] for i in order[: n - clusters]):
        parent[root(b)] = root(a)
    return np.unique([root(i) for i in range(n)], return_inverse=True)[1]


def spectral(
    affinity_NN: Tensor, numbers: Sequence[int], *, seed: int = 0
) -> dict[int, np.ndarray]:
    """Spectral clustering: k-means of rows of the top eigenvectors of D^-1/2 W D^-1/2, as unit
    vectors.

    One eigendecomposition, O(N^3), serves all numbers.

    Args:
        affinity_NN: Symmetric up to rounding, not negative.
        numbers: Of clusters.
        seed: Of k-means.

    Returns:
        number of clusters -> (N,) int64.

    Raises:
        ValueError: Unless each number is from 1 to N.
    """
    w, n = affinity_NN.double(), len(affinity_NN)
    if wrong := [k for k in numbers if not 1 <= k <= n]:
        raise ValueError(f"{n} rows cannot make {wrong[0]} clusters")
    w = (w + w.T) / 2
    root = w.sum(1).clamp(min=torch.finfo(w.dtype).tiny).rsqrt()
    vectors = torch.linalg.eigh(root[:, None] * w * root)[1].flip(1)
    return {
        k: kmeans(normalize(vectors[:, :k], dim=1), k, seed=seed, tries=10)[0].numpy()
        for k in numbers
    }


def matched_accuracy(truth_N: ArrayLike, cluster_N: ArrayLike) -> float:
    """Accuracy of clusters under the best one-to-one matching with classes (Hungarian algorithm).

    Clusters beyond the number of classes match none.
    """
    from scipy.optimize import linear_sum_assignment

    (a, i), (b, j) = (np.unique(np.asarray(x), return_inverse=True) for x in (truth_N, cluster_N))
    table = np.zeros((len(a), len(b)))
    np.add.at(table, (i, j), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(i))


def adjusted_mutual_information(one_N: ArrayLike, other_N: ArrayLike) -> float:
    """Adjusted mutual information: 1 for equal clusterings, 0 on average for independent ones.

    For two clusterings with one cluster each it is 1.
    """
    (i, a), (j, b) = (
        np.unique(np.asarray(x), return_inverse=True, return_counts=True)[1:]
        for x in (one_N, other_N)
    )
    n = len(i)
    if len(a) == len(b) == 1 or len(a) == len(b) == n:
        return 1.0
    table = np.zeros((len(a), len(b)))
    np.add.at(table, (i, j), 1)
    p, joint = table / n, table > 0
    mutual = (p[joint] * np.log((p / np.outer(a / n, b / n))[joint])).sum()
    expected = _expected(a, b, n)
    most = (_entropy(a / n) + _entropy(b / n)) / 2 - expected
    return float((mutual - expected) / (max(most, np.finfo(float).eps) if most >= 0 else most))


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def _expected(a: np.ndarray, b: np.ndarray, n: int) -> float:
    """Mutual information of random clusterings with these sizes, expected under the hypergeometric
    model."""
    log = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])  # of factorials
    total = 0.0
    for u, times_u in zip(*np.unique(a, return_counts=True)):
        for v, times_v in zip(*np.unique(b, return_counts=True)):
            k = np.arange(max(1, u + v - n), min(u, v) + 1)
            chance = (
                log[u]
                + log[v]
                + log[n - u]
                + log[n - v]
                - log[n]
                - log[k]
                - log[u - k]
                - log[v - k]
                - log[n - u - v + k]
            )
            total += times_u * times_v * (k / n * np.log(n * k / (u * v)) * np.exp(chance)).sum()
    return float(total)
