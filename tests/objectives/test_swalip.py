"""swalip and negative_cosine against explicit loops on the whole matrix."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.negative_cosine import negative_cosine
from amodal.objectives.sinkhorn import sinkhorn
from amodal.objectives.swalip import sinkhorn_factors, swalip


def balanced(scores, epsilon, iterations):
    """Sinkhorn-Knopp as SwAV's pseudo-code has it: on probabilities, prototypes first, then
    samples."""
    q = (scores / epsilon).exp()
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


def naive_swalip(a, b, other_a, other_b, temperature):
    a, b, other_a, other_b = (F.normalize(x, dim=1) for x in (a, b, other_a, other_b))
    total = 0.0
    for x, y, u, v in ((a, b, other_a, other_b), (b, a, other_b, other_a)):
        target = balanced((u @ v.T).detach(), 0.05, 3)
        logits = x @ y.T / temperature
        for i in range(len(x)):
            total = total - (target[i] * (logits[i] - logits[i].logsumexp(0))).sum() / len(x) / 2
    return total


@pytest.mark.parametrize("whole", [0, 2**22])
def test_swalip_is_the_loop(pair, same, whole, monkeypatch):
    monkeypatch.setattr("amodal.objectives.swalip.MAX_DENSE_ENTRIES", whole)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, u, v, t: swalip(a, b, u, v, temperature=t),
        naive_swalip,
        [*pair(9, 5), *pair(9, 5, seed=1), temperature],
    )


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("epsilon", [0.02, 1.0])
def test_factors_are_the_balanced_assignment(pair, epsilon, iterations):
    a, b = (F.normalize(x.detach(), dim=1) for x in pair(7, 4))
    found = sinkhorn_factors(a, b[:5], epsilon=epsilon, iterations=iterations)
    whole = (found.u_NE @ found.v_ME.T).exp()
    torch.testing.assert_close(whole, sinkhorn(a @ b[:5].T, epsilon=epsilon, iterations=iterations))
    torch.testing.assert_close(whole, balanced(a @ b[:5].T, epsilon, iterations))
    for tile in (2, 99):
        torch.testing.assert_close(found.column_sums(a, tile), whole.sum(0))
        torch.testing.assert_close(found.apply(b[:5], tile), whole @ b[:5])


def test_a_row_or_none(pair):
    for rows in (0, 1):
        a, b = (x[:rows].detach().requires_grad_() for x in pair(3, 4))
        for loss in (swalip(a, b, a, b, temperature=0.1), negative_cosine(a, b) * (rows == 0)):
            loss.backward()
            assert loss.item() == 0 and a.grad.abs().sum() == 0


def test_negative_cosine_is_a_squared_distance_and_stops_at_the_target(pair, same):
    def naive(p, v):
        return sum(
            (x / x.norm() - (y / y.norm()).detach()).square().sum() for x, y in zip(p, v)
        ) / len(p)

    same(negative_cosine, naive, pair(6, 4))
    p, v = pair(6, 4)
    assert torch.autograd.grad(negative_cosine(p, v), v, allow_unused=True)[0] is None
    with pytest.raises(ValueError, match="negative_cosine compares"):
        negative_cosine(p, v[:2])
