"""Binary cross-entropy of log-probabilities against torch's, at both ends, and agreement against
all pairs of answers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.entailment import bce_from_log_prob, log1mexp, log_agreement


def test_it_is_binary_cross_entropy_of_what_is_known(same):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(5, 4, dtype=torch.float64, generator=generator).requires_grad_()
    truth = torch.rand(5, 4, dtype=torch.float64, generator=generator)
    truth[0, 1] = truth[3] = torch.nan
    known = ~truth.isnan()
    same(
        lambda x: bce_from_log_prob(F.logsigmoid(x), truth),
        lambda x: F.binary_cross_entropy(x.sigmoid()[known], truth[known]),
        [raw],
    )


def test_both_ends_are_finite_and_right():
    x = torch.tensor([-1e-5, -0.3, -1.0, -80.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(log1mexp(x), (1 - x.exp()).log(), rtol=1e-9, atol=1e-30)
    log_p = torch.tensor([0.0, -200.0, 0.0, -200.0], requires_grad=True)
    loss = bce_from_log_prob(log_p, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    loss.backward()
    assert loss.isfinite() and log_p.grad.isfinite().all() and log_p.grad[3] < 0


def test_gradients_near_zero_at_the_switch_and_at_minus_infinity():
    x = torch.tensor([-1e-2, -0.3, -0.69, -0.7, -2, -30], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log1mexp, (x,), eps=1e-7, atol=1e-4)
    assert torch.autograd.gradgradcheck(log1mexp, (x,), eps=1e-7, atol=1e-3)
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([-1e-6, -1e4, -1e30, -torch.inf], dtype=dtype, requires_grad=True)
        (first,) = torch.autograd.grad(log1mexp(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        assert first[0] < -9e5 and not first[1:].any()  # d/dx = 1 - 1 / (1 - e^x)
        assert second[0] < -9e11 and not second[1:].any()


def test_nothing_known_and_other_shapes():
    x = torch.zeros(2, 2, requires_grad=True)
    loss = bce_from_log_prob(x - 1, torch.full((2, 2), torch.nan))
    loss.backward()
    assert loss == 0 and x.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="bce_from_log_prob .*one shape"):
        bce_from_log_prob(torch.zeros(2), torch.zeros(3))


def test_agreement_is_the_chance_that_all_outcomes_are_the_same():
    a, b = torch.rand(3, 4).double(), torch.rand(3, 4).double()
    for n in range(3):
        total = 0
        for outcomes in itertools.product((0, 1), repeat=4):
            y = torch.tensor(outcomes)
            total += ((a[n] * y + (1 - a[n]) * (1 - y)) * (b[n] * y + (1 - b[n]) * (1 - y))).prod()
        assert float(log_agreement(a, b)[n].exp()) == pytest.approx(float(total))
