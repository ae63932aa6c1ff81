"""Clusters of vectors, their number, and how much of them comes back on other samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.evaluate.self_labels import self_labels
from amodal.stats.kmeans import assign, kmeans

MAX_FITTED = 20_000
"""Vectors that k-means is fitted on; the others get the nearest centre."""
MAX_GRAPH = 2000
"""Vectors of which all pairs are compared; the others get the cluster that they are most alike."""
MAX_JUDGED = 2000
"""Vectors by which the number of clusters is judged."""
MIN_MEMBERS = 5
"""Of a cluster in a half of the records, below which stability says nothing."""
TRIES = 5


@dataclass(frozen=True)
class Groups:
    """A clustering of N vectors.

    Args:
        cluster_N: int64, numbered from 0 by size, the largest first.
        judged: Number of clusters -> how good it is, higher is better; {} where it was given.
    """

    cluster_N: np.ndarray
    judged: Mapping[int, float]

    @property
    def number(self) -> int:
        """Of clusters that have a member."""
        return len(np.unique(self.cluster_N))


def by_kmeans(
    z_ND: Tensor, numbers: Sequence[int], *, seed: int = 0, step: Callable[[], None] = lambda: None
) -> Groups:
    """K-means of unit vectors; of several numbers the one with the largest silhouette (Rousseeuw
    1987).

    Args:
        z_ND: Unit vectors.
        numbers: Of clusters.
        seed: Of all that is random.
        step: Called after each number.
    """
    some = _sample(len(z_ND), MAX_FITTED, seed)
    centres, judged = {}, {}
    for number in numbers:
        centres[number] = kmeans(z_ND[some], number, seed=seed, tries=TRIES)[1]
        if len(numbers) > 1:
            cluster_N = assign(z_ND[some].double(), centres[number])[0]
            judged[number] = silhouette(z_ND[some], cluster_N.numpy(), seed=seed)
        step()
    best = max(judged, key=lambda number: judged[number]) if judged else numbers[0]
    return Groups(_by_size(assign(z_ND.double(), centres[best])[0].numpy()), judged)


def by_membership(
    z_ND: Tensor,
    numbers: Sequence[int],
    member_NE: Tensor | None = None,
    *,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> Groups:
    """Spectral clusters of a doubly stochastic membership; of several numbers the one with the
    shortest code (Chu et al. 2024, arXiv:2306.05272, section 3.2).

    Args:
        z_ND: Unit vectors.
        numbers: Of clusters.
        member_NE: Unit vectors that define membership, z itself unless given.
        seed: Of all that is random.
        step: Called once all numbers are done.
    """
    c_NE = z_ND if member_NE is None else member_NE
    some = _sample(len(z_ND), MAX_GRAPH, seed)
    found = self_labels(z_ND[some], numbers, member_NE=c_NE[some], seed=seed)
    step()
    best = found.number
    cluster_n = torch.from_numpy(found.clusters[best])
    cluster_N = np.empty(len(z_ND), dtype=np.int64)
    cluster_N[some] = cluster_n
    rest = np.setdiff1d(np.arange(len(z_ND)), some)
    one_hot = torch.nn.functional.one_hot(cluster_n, best).to(c_NE.dtype)
    size = one_hot.sum(0).clamp_min(1)
    for rows in np.array_split(rest, max(1, len(rest) // MAX_GRAPH)):
        alike = (c_NE[rows] @ c_NE[some].T).abs() @ one_hot / size
        cluster_N[rows] = alike.argmax(1).numpy()
    judged = {k: -bits for k, bits in found.bits.items()} if len(numbers) > 1 else {}
    return Groups(_by_size(cluster_N), judged)


def silhouette(z_ND: Tensor, cluster_N: np.ndarray, *, seed: int = 0) -> float:
    """Mean silhouette of unit vectors, -1 for one cluster.

    Args:
        z_ND: Unit vectors.
        cluster_N: Their clusters.
        seed: Of the choice of `MAX_JUDGED` of them.
    """
    from sklearn.metrics import silhouette_score

    some = _sample(len(z_ND), MAX_JUDGED, seed)
    if not 1 < len(np.unique(cluster_N[some])) < len(some):
        return -1.0
    return float(silhouette_score(z_ND[some].numpy(), cluster_N[some]))


def stability(
    z_ND: Tensor, fit: Callable[[Tensor, int], np.ndarray], *, pairs: int = 3, seed: int = 0
) -> float | None:
    """How much of a clustering comes back on other records: two halves of the vectors are clustered
    apart, and the clusters of one half are compared with those of the other, carried over by the
    nearest mean (after Lange, Roth, Braun & Buhmann 2004).

    Args:
        z_ND: Unit vectors, of which `MAX_JUDGED` are taken.
        fit: (vectors, seed) -> their clusters.
        pairs: Of halves, whose mean it is.
        seed: Of the halves.

    Returns:
        Adjusted Rand index: 1 where the same comes back, about 0 for no more than by chance; None
        where a half has fewer than `MIN_MEMBERS` vectors a cluster, which says nothing.
    """
    from sklearn.metrics import adjusted_rand_score

    rng, some = np.random.default_rng(seed), _sample(len(z_ND), MAX_JUDGED, seed)
    values = []
    for pair in range(pairs):
        order = rng.permutation(some)
        one, other = (z_ND[half] for half in np.array_split(order, 2))
        labels = [fit(half, 2 * pair + side) for side, half in enumerate((one, other))]
        if min(map(len, labels)) < MIN_MEMBERS * max(len(np.unique(part)) for part in labels):
            return None
        carried = (other @ _means(one, labels[0]).T).argmax(1).numpy()
        values.append(adjusted_rand_score(labels[1], carried))
    return float(np.mean(values))


def one_cloud(z_ND: Tensor, *, seed: int = 0) -> Tensor:
    """As many unit vectors of a normal distribution with the same mean and covariance: what the
    same records would look like without any clusters.

    Args:
        z_ND: Unit vectors, of which `MAX_JUDGED` are taken.
        seed: Of the draw.
    """
    z = z_ND[_sample(len(z_ND), MAX_JUDGED, seed)].double()
    centred = z - z.mean(0)
    # a mix of the vectors by normal weights has their covariance
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(z), len(z), generator=generator, dtype=torch.float64)
    drawn = weights @ centred / np.sqrt(len(z)) + z.mean(0)
    return normalize(drawn, dim=1).to(z_ND.dtype)


def margins(z_ND: Tensor, cluster_N: np.ndarray) -> np.ndarray:
    """(N,) cosine to the mean of the own cluster less that to the nearest other, which is below 0
    where another mean is nearer."""
    cosine_NK = z_ND @ _means(z_ND, cluster_N).T
    own = cosine_NK.gather(1, torch.from_numpy(cluster_N)[:, None])[:, 0]
    if cosine_NK.shape[1] == 1:
        return np.asarray(own, dtype=np.float64)
    others = cosine_NK.scatter(1, torch.from_numpy(cluster_N)[:, None], -torch.inf).amax(1)
    return np.asarray(own - others, dtype=np.float64)


def _means(z_ND: Tensor, cluster_N: np.ndarray) -> Tensor:
    """(K, D) unit means of clusters 0 to K - 1."""
    means = [z_ND[cluster_N == c].mean(0) for c in range(int(cluster_N.max()) + 1)]
    return normalize(torch.stack(means), dim=1)


def candidate_numbers(
    records: int, number: int | None, most: int, *, fitted: int | None = None
) -> list[int]:
    """The numbers of clusters to try.

    Args:
        records: That are clustered.
        number: The only one, None for 2 to `most`.
        most: The largest.
        fitted: Records that are compared with each other, where these are fewer.

    Raises:
        AmodalError: For more clusters than records, and for less than 2.
    """
    records = min(records, fitted or records)
    if number is not None:
        if not 2 <= number <= records:
            raise AmodalError(
                f"{records:,} records make 2 to {records:,} clusters, and number is {number}"
            )
        return [number]
    if most < 2:
        raise AmodalError(f"most_clusters is {most}, and 2 is the least")
    if records < 4:
        raise AmodalError(
            f"{records} records are too few to find a number of clusters; 4 are the least"
        )
    return list(range(2, min(most, records - 1) + 1))


def _sample(count: int, most: int, seed: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _by_size(cluster_N: np.ndarray) -> np.ndarray:
    """The same clusters, the largest first."""
    named, counts = np.unique(cluster_N, return_counts=True)
    place = np.empty(len(named), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(named))
    return place[np.searchsorted(named, cluster_N)]
