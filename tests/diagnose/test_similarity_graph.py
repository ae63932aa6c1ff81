"""Graphs and their smooth functions against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.manifold import spectral_embedding

from amodal.diagnose.similarity_graph import (
    drawn_graph,
    laplacian,
    neighbour_graph,
    roughness,
    smooth_functions,
    subspace_alignment,
)
from amodal.objectives.kernel_nce import graph_info_nce


def made(n=30, seed=0):
    x = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, neighbour_graph(x, 6)


def test_the_graph_is_that_of_neighbours():
    x, graph = made()
    unit = x / x.norm(dim=1, keepdim=True)
    similar = (unit @ unit.T).fill_diagonal_(-2)
    near = [set(row.topk(6).indices.tolist()) for row in similar]
    for i in range(30):
        for j in range(30):
            assert graph[i, j] == pytest.approx(((j in near[i]) + (i in near[j])) / 12)


def test_smooth_functions_are_scikit_learns_spectral_embedding():
    _, graph = made()
    values, ours = smooth_functions(graph, 3)
    theirs = torch.from_numpy(spectral_embedding(graph.numpy(), n_components=3, random_state=0))
    assert (values > 0).all() and values.diff().min() > 0
    for a, b in zip(ours.T, theirs.T):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) == pytest.approx(1, abs=1e-6)


def test_alignment_is_of_principal_angles():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(20, 4))
    angles = subspace_angles(a - a.mean(0), b - b.mean(0))
    assert subspace_alignment(torch.tensor(a), torch.tensor(b)) == pytest.approx(
        (np.cos(angles) ** 2).mean()
    )
    assert subspace_alignment(
        torch.tensor(a), torch.tensor(a @ rng.normal(size=(3, 3)) + 5)
    ) == pytest.approx(1)
    assert subspace_alignment(torch.tensor(a), torch.tensor(np.c_[a, b])) == pytest.approx(1)


def test_roughness_is_the_sum_over_edges():
    x, graph = made()
    pairs = (
        sum(graph[i, j] * (x[i] - x[j]).square().sum() for i in range(30) for j in range(30)) / 2
    )
    assert float(roughness(x, graph)) == pytest.approx(float(pairs / graph.sum()))
    assert float(laplacian(graph).sum(1).abs().max()) < 1e-12
    for wrong in (graph[:5], graph - 1, graph + torch.ones(30, 30).triu()):
        with pytest.raises(ValueError, match="symmetric"):
            laplacian(wrong)
    with pytest.raises(ValueError, match="no edge"):
        smooth_functions(torch.zeros(3, 3), 1)


def test_a_graph_can_be_counted_from_draws():
    rng = np.random.default_rng(0)
    truth = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.2]])
    at = rng.choice(9, 20000, p=truth.ravel())
    values, graph = drawn_graph([f"v{i}" for i in at // 3], [f"v{i}" for i in at % 3])
    assert values == ["v0", "v1", "v2"] and float(graph.sum()) == pytest.approx(1)
    assert np.abs(graph.numpy() - truth).max() < 0.015 and torch.equal(graph, graph.T)


@pytest.mark.parametrize("gamma", [2.0, 1.0], ids=["Gaussian", "Laplacian"])
def test_contrast_on_a_graph_finds_its_smooth_functions(gamma):
    """Free vectors of 120 real digits that minimise the exact loss; random ones are far from them."""
    sources = pytest.importorskip("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(sources.data[:120])
    graph = neighbour_graph(pixels - pixels.mean(0), 8)
    _, smooth = smooth_functions(graph, 4)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(120, 4, dtype=torch.float64, generator=generator)
    begun = subspace_alignment(z, smooth)
    z.requires_grad_()
    descent = torch.optim.Adam([z], lr=0.05)
    for _ in range(250):
        descent.zero_grad()
        graph_info_nce(z, graph, temperature=1.0, gamma=gamma).backward()
        descent.step()
    unit = torch.nn.functional.normalize(z.detach(), dim=1)
    assert begun < 0.2 and subspace_alignment(unit, smooth) > begun + 0.5
