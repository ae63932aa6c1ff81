"""hard_negative_nce against loops over anchors and negatives, and against NT-Xent and InfoNCE."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.hard_negative import hard_negative_nce
from amodal.objectives.info_nce import info_nce, nt_xent


def loops(a, b, temperature, beta, prior, within=True):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    n, total = len(a), 0.0
    for own, other in ((a, b), (b, a)):
        for i in range(n):
            positive = (own[i] @ other[i] / temperature).exp()
            negatives = [other[j] for j in range(n) if j != i]
            negatives += [own[j] for j in range(n) if j != i] if within else []
            s = torch.stack([own[i] @ x / temperature for x in negatives])
            weight = (beta * s).exp()
            hard = (weight / weight.mean() * s.exp()).mean()
            least = torch.as_tensor(-1 / temperature, dtype=s.dtype).exp()
            g = torch.maximum((hard - prior * positive) / (1 - prior), least)
            total = total - (positive / (positive + len(s) * g)).log()
    return total / (2 * n)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(("beta", "prior"), [(0.0, 0.0), (1.0, 0.1), (2.0, 0.0), (0.5, 0.6)])
def test_it_is_the_formula(pair, same, beta, prior, within):
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: hard_negative_nce(
            a, b, temperature=t, beta=beta, prior=prior, within=within, tile=4
        ),
        lambda a, b, t: loops(a, b, t, beta, prior, within),
        [*pair(5, 4), t],
    )


def test_the_floor_holds_where_the_positive_is_near(pair, same):
    a = pair(4, 3)[0]
    near = (a.detach() + 0.01).requires_grad_()
    assert loops(a, near, 0.5, 1.0, 0.9) < loops(a, near, 0.5, 1.0, 0.0)
    same(
        lambda a, b: hard_negative_nce(a, b, prior=0.9),
        lambda a, b: loops(a, b, 0.5, 1.0, 0.9),
        [a, near],
    )


def test_without_beta_and_prior_it_is_nt_xent_or_info_nce(pair, same):
    plain = {"temperature": 0.2, "beta": 0.0, "prior": 0.0}
    same(
        lambda a, b: hard_negative_nce(a, b, **plain),
        lambda a, b: nt_xent(a, b, temperature=0.2),
        pair(6, 4),
    )
    same(
        lambda a, b: hard_negative_nce(a, b, within=False, **plain),
        lambda a, b: info_nce(a, b, temperature=0.2),
        pair(6, 4),
    )


def test_float32_at_a_low_temperature(pair):
    a, b = (x.detach() for x in pair(32, 8))
    exact = hard_negative_nce(a, b, temperature=0.005, beta=2.0)
    x = a.float().requires_grad_()
    value = hard_negative_nce(x, b.float(), temperature=0.005, beta=2.0)
    value.backward()
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
    assert x.grad.isfinite().all()


def test_edges(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        hard_negative_nce(a, b).backward()
        assert a.grad.shape == (n, 3) and a.grad.abs().sum() == 0
    for wrong in ({"beta": -1.0}, {"prior": 1.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            hard_negative_nce(*pair(3, 3), **wrong)
