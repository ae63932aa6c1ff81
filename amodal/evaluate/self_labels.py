"""Labels that nobody gave: clusters of vectors, how many there are, and what to call them.

Chu et al., ICLR 2024, arXiv:2306.05272, sections 3.2-3.3: spectral clustering on a doubly
stochastic membership, the number of clusters that takes the fewest bits to tell the vectors by, and
names by votes of the members.
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
    """bits: number of clusters -> what it takes to tell all vectors by so many; clusters: number ->
    (N,) int64."""

    bits: dict[int, float]
    clusters: dict[int, np.ndarray]

    @property
    def number(self) -> int:
        """The number of clusters with the fewest bits."""
        return min(self.bits, key=self.bits.get)


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
    """Divisions of N vectors into each of `numbers` clusters.

    member_NE: vectors that say who belongs with whom, z itself unless given (of an encoder that
    learnt by `cpp`, the first and second half of its aligned vectors). epsilon, iterations: as in
    `doubly_stochastic`; distortion: as in `coding_length`. Lengths are not looked at, only
    directions. N x N is held whole, and its eigenvectors are found: a few thousand rows.
    """
    z = normalize(z_ND.float(), dim=1)
    c = z if member_NE is None else normalize(member_NE.float(), dim=1)
    with torch.no_grad():
        member_NN = doubly_stochastic((c @ c.T).abs(), epsilon=epsilon, iterations=iterations)
    clusters = spectral(member_NN, numbers, seed=seed)
    bits = {
        k: float(coding_length(z, torch.from_numpy(found), distortion=distortion))
        for k, found in clusters.items()
    }
    return SelfLabels(bits, clusters)


def names_by_vote(
    cluster_N: np.ndarray, vectors_ND: Tensor, words_MD: Tensor, names: Sequence[str]
) -> dict[int, str]:
    """cluster -> the name that most of its members lie nearest to (cosine), the first of equals.

    vectors_ND, words_MD: of the members and of the M candidates, in a space where they can be
    compared.
    """
    nearest_N = (normalize(vectors_ND, dim=1) @ normalize(words_MD, dim=1).T).argmax(1).numpy()
    votes = {
        int(c): np.bincount(nearest_N[cluster_N == c], minlength=len(names))
        for c in np.unique(cluster_N)
    }
    return {c: names[int(count.argmax())] for c, count in votes.items()}
