"""Guided NT-Xent against loops over anchors, rule by rule."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.objectives.guided_nt_xent import SHARES, guided_nt_xent
from amodal.objectives.info_nce import nt_xent

N = 9


def teacher():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(N, 4, dtype=torch.float64, generator=generator) for _ in range(2)]


def reference(a, b, rule, share, t):
    z, u = (
        torch.cat([x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)])
        for x, y in ((a, b), teacher())
    )
    losses = []
    own_c = sorted(float(u[i] @ u[i + N]) for i in range(N))
    for i in range(2 * N):
        mate = (i + N) % (2 * N)
        negatives = sorted(
            (j for j in range(2 * N) if j not in (i, mate)), key=lambda j, i=i: float(u[i] @ u[j])
        )
        positives = [mate]
        cut = int(share * len(negatives))
        if rule == "new_positive":
            positives.append(negatives[-1])
        elif rule == "drop_false_negative":
            negatives = negatives[: len(negatives) - cut]
        elif rule == "drop_easy_negative":
            negatives = negatives[cut:]
        elif (
            rule == "drop_false_positive" and float(u[i] @ u[mate]) < own_c[int(share * N)] - 1e-12
        ):
            continue
        below = sum((z[i] @ z[j] / t).exp() for j in [mate, *negatives]).log()
        losses.append(sum(below - z[i] @ z[j] / t for j in positives) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tile", [4, 256])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("rule", SHARES)
def test_each_rule_is_as_documented(pair, same, rule, share, tile):
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: guided_nt_xent(
            a, b, *teacher(), rule=rule, share=share, temperature=t, tile=tile
        ),
        lambda a, b, t: reference(a, b, rule, share, t),
        [*pair(N, 5), t],
    )


def test_a_rule_that_drops_nothing_is_nt_xent(pair):
    a, b = pair(N, 5)
    for rule in ("none", "drop_false_positive", "drop_false_negative", "drop_easy_negative"):
        loss = guided_nt_xent(a, b, *teacher(), rule=rule, share=0.0)
        torch.testing.assert_close(loss, nt_xent(a, b), rtol=1e-12, atol=1e-12)


def test_edges(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        guided_nt_xent(a, b, a.detach(), b.detach(), rule="new_positive").backward()
        assert a.grad.abs().sum() == 0
    a, b = pair(2, 3)
    for rule in SHARES:
        assert guided_nt_xent(a, b, a, b, rule=rule, share=0.9).isfinite()
    with pytest.raises(AmodalError, match="Did you mean new_positive"):
        guided_nt_xent(a, b, a, b, rule="new_positives")
    with pytest.raises(ValueError, match="share"):
        guided_nt_xent(a, b, a, b, rule="new_positive", share=1.0)
