"""Labels without annotation: clusters of vectors, their number, and names for them.

Chu et al., ICLR 2024, arXiv:2306.05272, sections 3.2-3.3: spectral clustering of a doubly
stochastic membership, the number of clusters with the shortest code for the vectors, and names by
votes of the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.objectives.rate_reduction import coding_length
from amodal.objectives.sinkhorn import doubly_stochastic
from amodal.stats.clustering import spectral


@dataclass(frozen=True)
class SelfLabels:
    """Clusterings with different numbers of clusters.

    Args:
        bits: Number of clusters -> coding length of all vectors.
        clusters: Number of clusters -> (N,) int64.
    """

    bits: dict[int, float]
    clusters: dict[int, np.ndarray]

    @property
    def number(self) -> int:
        """The number of clusters with the fewest bits."""
        return min(self.bits, key=lambda number: self.bits[number])


def self_labels(
    z_ND: Tensor,
    numbers: Sequence[int],
    *,
    member_NE: Tensor | None = None,
    epsilon: float = 0.175,
    iterations: int = 5,
    distortion: float = 0.1,
    seed: int = 0,
) -> SelfLabels:
    """Cluster N vectors into each of `numbers` clusters.

    Only directions count, not lengths. An (N, N) matrix is held whole and its eigenvectors are
    found, so N is at most a few thousand.

    Args:
        z_ND: Vectors.
        numbers: Numbers of clusters.
        member_NE: Vectors that define membership, z itself unless given. For an encoder that learnt
            by `cpp`: the first and second half of its aligned vectors.
        epsilon: See `doubly_stochastic`.
        iterations: See `doubly_stochastic`.
        distortion: See `coding_length`.
        seed: Of k-means.
    """
    z = normalize(z_ND.float(), dim=1)
    c = z if member_NE is None else normalize(member_NE.float(), dim=1)
    with torch.no_grad():
        member_NN = doubly_stochastic((c @ c.T).abs(), epsilon=epsilon, iterations=iterations)
    clusters = spectral(member_NN, numbers, seed=seed)
    bits = {
        k: float(coding_length(z, torch.from_numpy(cluster_N), distortion=distortion))
        for k, cluster_N in clusters.items()
    }
    return SelfLabels(bits, clusters)


def names_by_vote(
    cluster_N: np.ndarray, vectors_ND: Tensor, words_MD: Tensor, names: Sequence[str]
) -> dict[int, str]:
    """Name each cluster by a vote of its members.

    Args:
        cluster_N: Cluster of each member.
        vectors_ND: Of the members, in a space that they share with the words.
        words_MD: Of the candidate names.
        names: M candidates.

    Returns:
        cluster -> the name nearest (by cosine) to most of its members, the first of equals.
    """
    nearest_N = (normalize(vectors_ND, dim=1) @ normalize(words_MD, dim=1).T).argmax(1).numpy()
    votes = {
        int(c): np.bincount(nearest_N[cluster_N == c], minlength=len(names))
        for c in np.unique(cluster_N)
    }
    return {c: names[int(count.argmax())] for c, count in votes.items()}
