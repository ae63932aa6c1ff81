"""Divergences of distributions against torch's own and against sums over the definition."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from amodal.objectives.gaussian_kl import gaussian_kl
from amodal.objectives.symmetric_kl import symmetric_kl


def test_gaussian_kl_is_torchs(pair, same):
    def reference(mean, log_variance):
        each = kl_divergence(
            Normal(mean, (log_variance / 2).exp()),
            Normal(torch.zeros_like(mean), torch.ones_like(mean)),
        )
        return sum(each[i, d] for i in range(5) for d in range(3)) / 5

    same(gaussian_kl, reference, pair(5, 3))
    assert gaussian_kl(torch.zeros(4, 2), torch.zeros(4, 2)) == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_symmetric_kl_is_the_sum_over_clusters(pair, same, temperature):
    def reference(a, b):
        total = 0
        for x, y in zip(a, b):
            p, q = ((v / temperature).exp() / (v / temperature).exp().sum() for v in (x, y))
            for k in range(len(p)):
                total = total + p[k] * (p[k] / q[k]).log() / 2 + q[k] * (q[k] / p[k]).log() / 2
        return total / len(a)

    same(lambda a, b: symmetric_kl(a, b, temperature=temperature), reference, pair(4, 6))
    a, b = pair(4, 6)
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    assert symmetric_kl(a, a + 3) < 1e-12  # scores that differ by a constant are the same clusters


@pytest.mark.parametrize("objective", [gaussian_kl, symmetric_kl])
def test_no_rows_and_unequal_shapes(objective):
    a, b = (torch.zeros(0, 3, requires_grad=True) for _ in range(2))
    loss = objective(a, b)
    loss.backward()
    assert loss == 0 and a.grad is not None and b.grad is not None
    with pytest.raises(ValueError, match="one shape"):
        objective(torch.zeros(2, 3), torch.zeros(3, 3))
