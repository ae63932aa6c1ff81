"""The spectral contrastive loss against loops, and against the factorisation that it is."""

import pytest
import torch

from amodal.objectives.spectral import graph_spectral, spectral_contrastive


def test_it_is_the_sum_over_pairs(pair, same):
    def reference(a, b):
        own = sum(a[i] @ b[i] for i in range(6)) / 6
        rest = sum((a[i] @ b[j]) ** 2 for i in range(6) for j in range(6) if i != j) / 30
        return rest - 2 * own

    same(spectral_contrastive, reference, pair(6, 4))
    same(spectral_contrastive, lambda a, b: reference(a, b), pair(6, 9))


def test_on_a_table_it_is_a_matrix_factorisation_but_for_a_constant(pair, same):
    joint = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = joint / joint.sum()
    rows, columns = p.sum(1), p.sum(0)
    a = p / (rows[:, None] * columns).sqrt()

    def factors(f, g):
        return (
            a - (rows.sqrt()[:, None] * f) @ (columns.sqrt()[:, None] * g[:4]).T
        ).square().sum() - a.square().sum()

    same(lambda f, g: graph_spectral(f, g[:4], joint), factors, pair(5, 3))


def test_what_minimises_it_spans_the_largest_singular_vectors():
    torch.manual_seed(0)
    joint = torch.rand(7, 6, dtype=torch.float64) + 2 * torch.eye(7, 6, dtype=torch.float64)
    p = joint / joint.sum()
    rows, columns = p.sum(1).sqrt(), p.sum(0).sqrt()
    a = p / (rows[:, None] * columns)
    u, s, v = torch.linalg.svd(a)
    f, g = (u[:, :2] * s[:2].sqrt()) / rows[:, None], (v[:2].T * s[:2].sqrt()) / columns[:, None]
    f, g = f.requires_grad_(), g.requires_grad_()
    loss = graph_spectral(f, g, joint)
    torch.testing.assert_close(loss, -s[:2].square().sum())
    assert all(x.abs().max() < 1e-12 for x in torch.autograd.grad(loss, (f, g)))


def test_edges(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        spectral_contrastive(a, b).backward()
        assert a.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="shape"):
        spectral_contrastive(pair(3, 2)[0], pair(4, 2)[0])
    with pytest.raises(ValueError, match="does not fit"):
        graph_spectral(pair(3, 2)[0], pair(4, 2)[0], torch.ones(3, 3))
