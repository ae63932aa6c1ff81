"""Clusters of vectors, their number, and whether they come back."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from amodal.cluster import groups
from amodal.cluster.groups import (
    by_kmeans,
    by_membership,
    candidate_numbers,
    margins,
    silhouette,
    stability,
)
from amodal.core import AmodalError


def blobs(counts=(50, 30, 20), noise=0.1, width=8):
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(width)[: len(counts)]
    truth = np.repeat(np.arange(len(counts)), counts)
    z = centres[truth] + noise * torch.randn(len(truth), width, generator=generator)
    return normalize(z, dim=1), truth


@pytest.mark.parametrize("way", [by_kmeans, by_membership])
def test_number_and_members_are_found_the_largest_cluster_first(way):
    z, truth = blobs()
    steps = []
    found = way(z, range(2, 8), step=lambda: steps.append(1))
    assert found.cluster_N.tolist() == truth.tolist() and found.number == 3
    assert max(found.judged, key=found.judged.get) == 3 and set(found.judged) == set(range(2, 8))
    assert steps
    four = way(z, [4])
    assert four.number == 4 and not four.judged


@pytest.mark.parametrize(("way", "most"), [(by_kmeans, "MAX_FITTED"), (by_membership, "MAX_GRAPH")])
def test_more_vectors_than_are_fitted_get_the_cluster_that_they_are_most_like(
    way, most, monkeypatch
):
    z, truth = blobs()
    monkeypatch.setattr(groups, most, 40)
    assert way(z, [3]).cluster_N.tolist() == truth.tolist()


def test_membership_is_of_the_vectors_that_learnt_it():
    z, _ = blobs()
    member, truth = blobs((20, 50, 30))
    found = by_membership(z, [3], member).cluster_N
    sizes = np.bincount(found).tolist()
    assert sizes == [50, 30, 20]
    assert len({(a, b) for a, b in zip(found, truth)}) == 3  # one to one


def clusters(number):
    return lambda z, seed: by_kmeans(z, [number], seed=seed).cluster_N


def test_what_is_there_comes_back_and_what_is_not_does_not():
    z, _ = blobs()
    noise = normalize(torch.randn(100, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    assert stability(z, clusters(3)) == pytest.approx(1.0)
    assert stability(noise, clusters(3)) < 0.5
    # of two halves: five clusters of a circle lie anywhere, though most of a sample comes back
    angle = torch.arange(400) * 2 * torch.pi / 400
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert stability(circle, clusters(5)) < 0.9


def test_halves_share_no_record():
    z, seen = blobs()[0], []

    def fit(part, seed):
        seen.append({tuple(row) for row in part.tolist()})
        return by_kmeans(part, [3], seed=seed).cluster_N

    stability(z, fit, pairs=2)
    assert len(seen) == 4 and not seen[0] & seen[1] and not seen[2] & seen[3]
    assert len(seen[0] | seen[1]) == 100 and seen[0] != seen[2]


def test_few_records_a_cluster_say_nothing():
    z, _ = blobs()
    assert stability(z, clusters(11)) is None and stability(z, clusters(5)) is not None


def test_one_cloud_has_the_same_mean_and_spread_and_no_clusters():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(2000, 4, generator=generator) * torch.tensor([0.3, 0.05, 0.05, 0.05])
    z = normalize(z + torch.tensor([0.0, 0.0, 0.0, 1.0]), dim=1)
    cloud = groups.one_cloud(z)
    assert torch.allclose(cloud.mean(0), z.mean(0), atol=0.02)
    assert torch.allclose(cloud.T.cov(), z.T.cov(), atol=0.01)
    apart = blobs(noise=0.05)[0]
    for vectors, low, high in ((apart, 0.7, 1.0), (groups.one_cloud(apart), 0.0, 0.6)):
        assert low < silhouette(vectors, clusters(3)(vectors, 0)) < high


def test_margins_are_of_cosines_to_means():
    z = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]), dim=1)
    mean = normalize(z[:2].mean(0), dim=0)
    found = margins(z, np.array([0, 0, 1]))
    assert found == pytest.approx(
        [float(z[0] @ mean - z[0, 1]), float(z[1] @ mean - z[1, 1]), float(1 - z[2] @ mean)],
        abs=1e-6,
    )
    assert margins(z[:2], np.array([0, 0])) == pytest.approx([float(z[i] @ mean) for i in (0, 1)])


def test_one_cluster_has_no_silhouette():
    z, truth = blobs()
    assert silhouette(z, np.zeros(len(z), dtype=np.int64)) == -1.0
    assert silhouette(z, truth) > 0.5


def test_numbers_that_cannot_be():
    assert candidate_numbers(10, None, 4) == [2, 3, 4]
    assert candidate_numbers(4, None, 20) == [2, 3]
    assert candidate_numbers(3, 3, 20) == [3]
    for arguments, words in (
        ((10, 11, 20), "10 records make 2 to 10"),
        ((10, 1, 20), "number is 1"),
        ((10, None, 1), "2 is the least"),
        ((3, None, 20), "4 are the least"),
    ):
        with pytest.raises(AmodalError, match=words):
            candidate_numbers(*arguments)
    assert candidate_numbers(90, None, 20, fitted=6) == [2, 3, 4, 5]
    with pytest.raises(AmodalError, match="6 records make 2 to 6"):
        candidate_numbers(90, 7, 20, fitted=6)
