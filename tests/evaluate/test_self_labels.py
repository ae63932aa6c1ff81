"""Spectral clusters against scikit-learn, accuracy against all ways to name clusters, and how many
clusters there are and their names."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import SpectralClustering

from amodal.core import AmodalError
from amodal.evaluate.protocols.cluster import cluster
from amodal.evaluate.self_labels import names_by_vote, self_labels
from amodal.stats.clustering import adjusted_mutual_information, matched_accuracy, spectral
from tests.evaluate.made import made


def subspaces(groups=5, size=40, seed=0):
    """Unit vectors near one line each, and which: signs are drawn, so that only |cosine| tells."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(groups), size)
    lines = np.linalg.qr(rng.normal(size=(16, 16)))[0][:groups]
    x = lines[truth] * rng.choice([-1, 1], (len(truth), 1)) + 0.02 * rng.normal(
        size=(len(truth), 16)
    )
    return torch.from_numpy(x).float(), truth


def test_spectral_clusters_are_scikit_learns():
    x, truth = subspaces()
    affinity = (x @ x.T).abs().square().double() + 1e-3
    ours = spectral(affinity, [3, 5])
    theirs = SpectralClustering(5, affinity="precomputed", random_state=0).fit_predict(
        affinity.numpy()
    )
    assert adjusted_mutual_information(ours[5], theirs) == pytest.approx(1)
    assert len(set(ours[3])) == 3
    with pytest.raises(ValueError, match="cannot make"):
        spectral(affinity, [201])


@pytest.mark.parametrize("classes, clusters", [(3, 3), (2, 4), (4, 2)])
def test_accuracy_is_the_best_of_all_ways_to_name_clusters(classes, clusters):
    rng = np.random.default_rng(classes)
    truth, found = rng.integers(0, classes, 40), rng.integers(0, clusters, 40)
    names = [*range(classes), *[-1] * clusters]
    best = max(
        (np.array(way)[found] == truth).mean() for way in itertools.permutations(names, clusters)
    )
    assert matched_accuracy(truth, found) == pytest.approx(best)
    assert matched_accuracy(["a", "b", "a"], [7, 1, 7]) == 1


@pytest.mark.parametrize("groups", [3, 6])
def test_the_fewest_bits_choose_the_number_of_subspaces(groups):
    x, truth = subspaces(groups)
    found = self_labels(5 * x, range(2, 10))
    assert found.number == groups and found.bits[groups] < min(
        found.bits[groups - 1], found.bits[groups + 1]
    )
    assert matched_accuracy(truth, found.clusters[groups]) == 1
    labelled = self_labels(torch.randn(len(x), 3), [groups], member_NE=x)
    assert matched_accuracy(truth, labelled.clusters[groups]) == 1


def test_members_vote_for_the_name_of_their_cluster():
    words = torch.eye(3)
    vectors = torch.tensor(
        [[1.0, 0, 0.2], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0.5]]
    )
    found = names_by_vote(np.array([0, 0, 0, 4, 4, 4]), vectors, words, ["cat", "dog", "eel"])
    assert found == {0: "cat", 4: "eel"}


def test_the_protocol_finds_the_number_too_when_it_is_asked_to():
    x, truth = subspaces(3, 60)
    embedded = made(180, sources=("image",))
    embedded.features["image"].values.copy_(x[embedded.features["image"].rows])
    embedded.labels["kind"] = np.array(["a", "b", "c"], dtype=object)[truth]
    result = cluster(None, embedded, label="kind", number="coding length", most_clusters=6)
    assert [r["source"] for r in result.rows] == ["image", "image, aligned"]
    assert all(r["value"] == pytest.approx(1) and r["clusters"] == 3 for r in result.rows)
    with pytest.raises(AmodalError, match="coding length"):
        cluster(None, embedded, label="kind", number="coding lenght")
