"""Losses against mixtures as targets."""

import math

import pytest
import torch

from amodal.objectives.soft_targets import soft_sigmoid, soft_softmax


def test_both_are_what_is_published():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    target = target / target.sum(1, keepdim=True)
    one = other = 0.0
    for o, t in zip(logits.tolist(), target.tolist()):
        for k in range(3):
            s = 1 / (1 + math.exp(-o[k]))
            one -= (t[k] * math.log(s) + (1 - t[k]) * math.log(1 - s)) / 4
            other -= t[k] * math.log(math.exp(o[k]) / sum(math.exp(v) for v in o)) / 4
    assert float(soft_sigmoid(logits, target)) == pytest.approx(one)
    assert float(soft_softmax(logits, target)) == pytest.approx(other)


@pytest.mark.parametrize("loss", [soft_sigmoid, soft_softmax])
def test_it_is_least_at_the_target_and_finite_far_from_it(loss):
    target = torch.tensor([[0.1, 0.2, 0.7]])
    best = (target / (1 - target)).log() if loss is soft_sigmoid else target.log()
    at = best.clone().requires_grad_()
    loss(at, target).backward()
    assert at.grad.abs().max() < 1e-6
    assert loss(torch.full((1, 3), 1e4), target).isfinite()
    none = torch.zeros(0, 3, requires_grad=True)
    loss(none, torch.zeros(0, 3)).backward()
    assert none.grad is not None
    with pytest.raises(ValueError, match="one shape"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))
