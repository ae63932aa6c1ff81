"""masked_mse, masked_cross_entropy, smooth_l1: one loss per token, against loops and torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.reconstruction import masked_cross_entropy, masked_mse
from amodal.objectives.smooth_l1 import smooth_l1


def mae_target(target, eps=1e-6):
    return (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + eps) ** 0.5


def test_mse_without_gaps_is_maes(pair, same):
    prediction, target = pair(6, 5)
    target = target.detach()
    same(
        lambda p: masked_mse(p, target, normalise=False).sum(),
        lambda p: (p - target).square().mean(1).sum(),
        [prediction],
    )
    same(
        lambda p: masked_mse(p, target).sum(),
        lambda p: (p - mae_target(target)).square().mean(1).sum(),
        [prediction],
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_mse_ignores_missing_values(pair, same, normalise):
    prediction, target = pair(6, 5)
    target = target.detach()
    target[0, 2] = target[3, :4] = target[5] = math.nan

    def reference(p):
        losses = []
        for x, y in zip(p, target):
            seen = ~y.isnan()
            if not seen.any():
                losses.append(x.sum() * 0)
                continue
            x, y = x[seen], y[seen]
            if normalise:
                y = mae_target(y) if len(y) > 1 else torch.zeros_like(y)
            losses.append((x - y).square().mean())
        return (torch.stack(losses) * torch.arange(1, 7)).sum()

    same(
        lambda p: (masked_mse(p, target, normalise=normalise) * torch.arange(1, 7)).sum(),
        reference,
        [prediction],
    )
    loss = masked_mse(prediction, target, normalise=normalise)
    assert loss.shape == (6,) and loss[5] == 0
    gradient = torch.autograd.grad(loss.sum(), prediction)[0]
    assert (gradient[target.isnan()] == 0).all()


def test_cross_entropy_with_missing_codes(pair, same):
    logits = pair(6, 5)[0]
    target = torch.tensor([0, 4, -1, 2, -1, 3])
    same(
        lambda x: masked_cross_entropy(x, target).sum(),
        lambda x: F.cross_entropy(x, target, ignore_index=-1, reduction="none").sum(),
        [logits],
    )
    assert masked_cross_entropy(logits, target)[2] == 0


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0, 4.0])
def test_smooth_l1_is_the_formula_and_torchs(pair, same, beta):
    prediction, target = pair(6, 5)

    def reference(p, t):
        total = 0.0
        for d in (p - t).flatten():
            total = total + (d * d / (2 * beta) if beta and abs(d) <= beta else abs(d) - beta / 2)
        return total / 5

    ours = lambda p, t: smooth_l1(p, t, beta=beta).sum()  # noqa: E731
    same(ours, reference, [prediction, target])
    same(
        ours,
        lambda p, t: F.smooth_l1_loss(p, t, reduction="sum", beta=beta) / 5,
        [prediction, target],
    )
    assert smooth_l1(prediction, target, beta=beta).shape == (6,)


def test_errors():
    with pytest.raises(ValueError, match="differ"):
        masked_mse(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="differ"):
        smooth_l1(torch.zeros(2, 3), torch.zeros(3), beta=1.0)
    with pytest.raises(ValueError, match="negative"):
        smooth_l1(torch.zeros(2, 3), torch.zeros(2, 3), beta=-1.0)
    with pytest.raises(ValueError, match="targets"):
        masked_cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
