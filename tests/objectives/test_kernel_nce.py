"""Kernel-InfoNCE and its expectation on a graph, against loops over pairs; and the theorem that
ties it to the Laplacian."""

import math

import pytest
import torch

from amodal.diagnose.similarity_graph import roughness
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.kernel_nce import concatenated_kernel_nce, graph_info_nce, kernel_info_nce


def kernel(x, y, temperature, gamma):
    return ((-(((x - y).square().sum() ** 0.5) ** gamma)) / temperature).exp()


def by_loop(a, b, temperature, gamma, within, unit=True):
    if unit:
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    n, losses = len(a), []
    for x, y in ((a, b), (b, a)):
        for i in range(n):
            others = [y[j] for j in range(n)] + [x[j] for j in range(n) if within and j != i]
            below = sum(kernel(x[i], other, temperature, gamma) for other in others)
            losses.append(-(kernel(x[i], y[i], temperature, gamma) / below).log())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("tile", [3, 256])
def test_it_is_the_sum_over_pairs(pair, same, gamma, within, tile):
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: kernel_info_nce(a, b, temperature=t, gamma=gamma, within=within, tile=tile),
        lambda a, b, t: by_loop(a, b, t, gamma, within),
        [*pair(7, 4), t],
    )


def test_the_gaussian_kernel_is_nt_xent_at_half_the_temperature(pair):
    a, b = pair(9, 5)
    for within, loss in ((True, nt_xent), (False, info_nce)):
        torch.testing.assert_close(
            kernel_info_nce(a, b, temperature=0.6, within=within),
            loss(a, b, temperature=0.3),
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("within", [True, False])
def test_concatenation_gives_each_kernel_half_of_unit_vectors(pair, same, within):
    def reference(a, b):
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        first = by_loop(a[:, :3], b[:, :3], 0.5, 1.0, within, unit=False)
        return 0.3 * first + 0.7 * by_loop(a[:, 3:], b[:, 3:], 0.5, 2.0, within, unit=False)

    how = {"temperature": 0.5, "gammas": (1.0, 2.0), "share": 0.3, "within": within}
    same(lambda a, b: concatenated_kernel_nce(a, b, **how), reference, pair(6, 6))
    with pytest.raises(ValueError, match="even width"):
        concatenated_kernel_nce(*pair(6, 5), **how)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_equal_vectors_and_float32_have_finite_gradients(gamma):
    one = torch.ones(5, 3, requires_grad=True)
    kernel_info_nce(one, one.clone(), temperature=0.1, gamma=gamma).backward()
    assert one.grad.isfinite().all()
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 8, generator=generator)
    near = (a + 1e-5 * torch.randn(64, 8, generator=generator)).requires_grad_()
    loss = kernel_info_nce(a, near, temperature=0.1, gamma=gamma)
    loss.backward()
    exact = kernel_info_nce(a.double(), near.detach().double(), temperature=0.1, gamma=gamma)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-3, atol=1e-3)
    assert near.grad.abs().max() < 100


def test_edges(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        kernel_info_nce(a, b, temperature=0.1, gamma=1.0).backward()
        assert a.grad.abs().sum() == 0
    for wrong in ({"temperature": 0.0}, {"temperature": 1.0, "gamma": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            kernel_info_nce(*pair(3, 3), **wrong)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("bipartite", [True, False])
def test_on_a_graph_it_is_the_expectation_over_positives(pair, same, gamma, bipartite):
    graph = torch.rand(
        6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).fill_diagonal_(0)

    def reference(a, b):
        a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b if bipartite else a))
        total = 0.0
        for i in range(6):
            ks = [kernel(a[i], b[j], 0.7, gamma) if bipartite or i != j else 0.0 for j in range(6)]
            total = total - sum(
                graph[i, j] * (ks[j] / sum(ks)).log() for j in range(6) if bipartite or j != i
            )
        return total / graph.sum()

    same(
        lambda a, b: graph_info_nce(
            a, graph, b if bipartite else None, temperature=0.7, gamma=gamma
        ),
        reference,
        pair(6, 3),
    )


def test_the_loss_of_a_batch_is_the_graphs_of_its_pairs(pair):
    a, b = pair(5, 4)
    graph = torch.zeros(10, 10, dtype=torch.float64)
    for i in range(5):
        graph[i, i + 5] = graph[i + 5, i] = 1
    for gamma in (0.5, 1.0, 2.0):
        torch.testing.assert_close(
            graph_info_nce(torch.cat([a, b]), graph, temperature=0.3, gamma=gamma),
            kernel_info_nce(a, b, temperature=0.3, gamma=gamma),
        )


def test_with_the_gaussian_kernel_attraction_is_the_laplacians(pair):
    """The theorem: the loss is trace(Z' L Z) over the temperature plus the logarithm of the
    partition function, here by enumerating all subgraphs in which each node keeps one edge."""
    z = torch.nn.functional.normalize(pair(4, 3)[0].detach(), dim=1)
    weights = torch.rand(
        4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).fill_diagonal_(0)
    graph = weights + weights.T
    pi = graph / graph.sum(1, keepdim=True)
    t, total, partition = 0.6, 0.0, 0.0
    choices = [[j for j in range(4) if j != i] for i in range(4)]
    k = torch.stack([torch.stack([kernel(x, y, t, 2.0) for y in z]) for x in z])
    every = [
        (a, b, c, d) for a in choices[0] for b in choices[1] for c in choices[2] for d in choices[3]
    ]
    for w in every:
        partition = partition + math.prod(float(k[i, j]) for i, j in enumerate(w))
    for w in every:
        chance = math.prod(float(pi[i, j]) for i, j in enumerate(w))
        total -= chance * math.log(math.prod(float(k[i, j]) for i, j in enumerate(w)) / partition)
    assert float(graph_info_nce(z, pi, temperature=t)) * 4 == pytest.approx(total)
    symmetric = (pi + pi.T) / 2
    attraction = float(roughness(z, symmetric)) * float(symmetric.sum()) * 2 / t
    assert total == pytest.approx(attraction + math.log(partition))
