"""K-means that gives the same clusters on every process: Lloyd's algorithm from k-means++ starts
(Arthur & Vassilvitskii 2007).

Ours: scikit-learn's rounds by its number of threads, and methods that divide data by clusters must
do so alike on every rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(
    x_ND: Tensor, clusters: int, *, seed: int = 0, steps: int = 50, tries: int = 3
) -> tuple[Tensor, Tensor]:
    """Cluster rows; of all starts the one with the least squared distance counts.

    A start draws each further centre with a probability proportional to the squared distance from
    those before it, 2 + log K times, and takes the draw that leaves the least distance. A cluster
    that loses its rows stays where it is. Fewer different rows than clusters leave some empty.

    Args:
        x_ND: Vectors.
        clusters: K.
        seed: Of all that is random.
        steps: Iterations at most.
        tries: Starts.

    Returns:
        (N,) int64 cluster of each row; (K, D) float64 centres.

    Raises:
        ValueError: Without a row or a cluster.
    """
    if not len(x_ND) or clusters < 1:
        raise ValueError(
            f"k-means needs a row and a cluster at least, got {len(x_ND)} and {clusters}."
        )
    # on the CPU, so that the device does not change the rounding
    x = x_ND.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    runs = [_lloyd(x, _start(x, clusters, generator), steps) for _ in range(tries)]
    label, centres, _ = min(runs, key=lambda run: float(run[2]))
    return label.to(x_ND.device), centres.to(x_ND.device)


def assign(x_ND: Tensor, centres_KD: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) int64 nearest centre of each row, and (N,) the squared distance from it."""
    square = x_ND.square().sum(1)[:, None] + centres_KD.square().sum(1) - 2 * x_ND @ centres_KD.T
    low = square.min(1)
    return low.indices, low.values.clamp_min(0)


def _start(x_ND: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Initial centres by greedy k-means++."""
    chosen = [int(torch.randint(len(x_ND), (), generator=generator))]
    square = assign(x_ND, x_ND[chosen])[1]
    drawn = 2 + int(math.log(clusters))
    while len(chosen) < clusters:
        draw = torch.rand(drawn, dtype=torch.float64, generator=generator)
        total = square.cumsum(0)
        # where uniform draws fall in the running sum: each row as likely as its squared distance
        index = torch.searchsorted(total, draw * total[-1], right=True).clamp(max=len(x_ND) - 1)
        candidates = index.tolist()
        squares = [torch.minimum(square, assign(x_ND, x_ND[i : i + 1])[1]) for i in candidates]
        sums = [float(s.sum()) for s in squares]
        best = sums.index(min(sums))
        chosen, square = [*chosen, candidates[best]], squares[best]
    return x_ND[chosen]


def _lloyd(x_ND: Tensor, centres_KD: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters, centres and the sum of squared distances after at most `steps` iterations."""
    label, square = assign(x_ND, centres_KD)
    for _ in range(steps):
        count = torch.bincount(label, minlength=len(centres_KD)).to(x_ND.dtype)[:, None]
        total = torch.zeros_like(centres_KD).index_add(0, label, x_ND)
        centres_KD = torch.where(count > 0, total / count.clamp_min(1), centres_KD)
        before, (label, square) = label, assign(x_ND, centres_KD)
        if torch.equal(before, label):
            break
    return label, centres_KD, square.sum()
