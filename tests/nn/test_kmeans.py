"""K-means against scikit-learn's."""

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from amodal.stats.kmeans import assign, kmeans


def test_it_ends_where_lloyds_alternation_ends():
    x = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label, centres = kmeans(x, 7, seed=1, tries=1, steps=200)
    theirs = KMeans(7, init=centres.numpy(), n_init=1, max_iter=300, tol=0).fit(x.numpy())
    torch.testing.assert_close(torch.from_numpy(theirs.cluster_centers_), centres)
    assert (torch.from_numpy(theirs.labels_) == label).all()
    near, square = assign(x, centres)
    torch.testing.assert_close(square, torch.cdist(x, centres).square().min(1).values)
    assert torch.equal(near, label)


def test_it_finds_clusters_that_are_there_and_is_as_good_as_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(8).repeat_interleave(30)
    x = 6 * torch.randn(8, 4, generator=generator)[truth] + torch.randn(240, 4, generator=generator)
    label, centres = kmeans(x, 8)
    theirs = KMeans(8, n_init=10, random_state=0).fit(x.numpy())
    assert float(assign(x.double(), centres)[1].sum()) <= 1.01 * theirs.inertia_
    assert adjusted_rand_score(truth, label) > 0.95


def test_the_seed_decides_and_nothing_else():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(3))
    first = kmeans(x, 5, seed=2)[0]
    torch.manual_seed(99)
    assert torch.equal(first, kmeans(x, 5, seed=2)[0])


def test_few_rows_and_none():
    label, centres = kmeans(torch.ones(3, 2), 5)
    assert len(label.unique()) == 1 and centres.isfinite().all()
    assert len(kmeans(torch.eye(3), 3)[0].unique()) == 3
    for x, k in ((torch.zeros(0, 2), 2), (torch.ones(3, 2), 0)):
        with pytest.raises(ValueError, match="at least"):
            kmeans(x, k)
