"""MIL-NCE against loops over every anchor and candidate."""

import pytest
import torch

from amodal.objectives.mil_nce import mil_nce


def loops(a, b, temperature):
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=2, keepdim=True)
    n, k, total = len(a), b.shape[1], 0.0
    for i in range(n):
        own = sum((a[i] @ b[i, m] / temperature).exp() for m in range(k))
        others = sum(
            (a[i] @ b[j, m] / temperature).exp() + (a[j] @ b[i, m] / temperature).exp()
            for j in range(n)
            for m in range(k)
            if j != i
        )
        total = total - (own / (own + others)).log()
    return total / n


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_it_is_the_published_formula(pair, same, candidates, temperature):
    a = pair(5, 4)[0]
    b = pair(5 * candidates, 4, seed=2)[1].detach().view(5, candidates, 4).requires_grad_()
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    same(lambda a, b, t: mil_nce(a, b, temperature=t), loops, [a, b, t], rtol=1e-8)


def test_candidates_that_fit_perfectly_cost_nothing_and_one_is_enough():
    a = torch.eye(6)
    b = torch.stack([a, -a], 1)
    assert mil_nce(a, b, temperature=0.02) < 1e-6
    assert mil_nce(a, -b.flip(1), temperature=0.02) < 1e-6
    assert mil_nce(a, torch.stack([-a, -a], 1), temperature=0.02) > 10


def test_no_rows_and_errors(pair):
    for n in (0, 1):
        a = pair(n, 3)[0]
        loss = mil_nce(a, torch.ones(n, 2, 3))
        loss.backward()
        assert loss.item() == 0 and a.grad.shape == (n, 3)
    with pytest.raises(ValueError, match="mil_nce needs"):
        mil_nce(pair(4, 3)[0], torch.ones(5, 2, 3))
    with pytest.raises(ValueError, match="temperature"):
        mil_nce(pair(4, 3)[0], torch.ones(4, 2, 3), temperature=0)
