"""Routings against slow loops over rows, capsules and votes, and what they are to tell."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from amodal.core import AmodalError
from amodal.nn.heads.capsules import (
    AttentionRouting,
    CapsuleHead,
    DynamicRouting,
    EMRouting,
    squash,
)

C, P = 4, 3


def capsules(rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(rows, C, P, dtype=torch.float64, generator=generator)
    return pose, torch.rand(rows, C, dtype=torch.float64, generator=generator)


def votes_of(routing, pose):
    w = routing.votes.weight
    return [[[sum(pose[c, p] * w[c, k, p] for p in range(P)) for k in range(C)] for c in range(C)]][
        0
    ]


def slow_dynamic(routing, pose, active):
    votes = votes_of(routing, pose * active[:, None])
    b = [[torch.zeros((), dtype=torch.float64) for _ in range(C)] for _ in range(C)]
    for _ in range(routing.iterations):
        share = [torch.stack(row).softmax(0) for row in b]
        v = []
        for k in range(C):
            s = sum(share[c][k] * votes[c][k] for c in range(C))
            v.append(s.norm() ** 2 / (1 + s.norm() ** 2) * s / s.norm())
        b = [[b[c][k] + votes[c][k] @ v[k] for k in range(C)] for c in range(C)]
    return torch.stack(v)


def slow_em(routing, pose, active):
    votes = votes_of(routing, pose)
    r = [[1 / C] * C for _ in range(C)]
    for t in range(routing.iterations):
        mean, variance, above = [], [], []
        for k in range(C):
            own = [r[c][k] * active[c] for c in range(C)]
            mean.append(sum(w * votes[c][k] for c, w in enumerate(own)) / sum(own))
            variance.append(
                sum(w * (votes[c][k] - mean[k]) ** 2 for c, w in enumerate(own)) / sum(own) + 1e-4
            )
            cost = sum((routing.use[k] + variance[k][h].sqrt().log()) * sum(own) for h in range(P))
            above.append(torch.sigmoid((t + 1) / routing.iterations * (routing.active[k] - cost)))
        for c in range(C):
            density = [
                math.prod(
                    float(
                        (-((votes[c][k][h] - mean[k][h]) ** 2) / (2 * variance[k][h])).exp()
                        / (2 * math.pi * variance[k][h]).sqrt()
                    )
                    for h in range(P)
                )
                for k in range(C)
            ]
            total = sum(float(above[k]) * density[k] for k in range(C))
            r[c] = [float(above[k]) * density[k] / total for k in range(C)]
    return torch.stack(mean), torch.stack(above)


def test_attention_is_the_softmax_of_scaled_products_row_by_row():
    torch.manual_seed(0)
    routing, (pose, active) = AttentionRouting(C, P).double(), capsules()
    found, on = routing(pose, active)
    for n in range(len(pose)):
        x = [active[n, c] * pose[n, c] for c in range(C)]
        for c in range(C):
            score = torch.stack(
                [routing.query(x[c]) @ routing.key(x[k]) / P**0.5 for k in range(C)]
            ).exp()
            expected = sum(score[k] / score.sum() * routing.value(x[k]) for k in range(C))
            torch.testing.assert_close(found[n, c], expected)
        logits = torch.stack([routing.activate(found[n, c])[0] for c in range(C)]).exp()
        torch.testing.assert_close(on[n], logits / logits.sum())


@pytest.mark.parametrize("iterations", [1, 3])
def test_dynamic_routing_is_procedure_1_of_sabour(iterations):
    torch.manual_seed(0)
    routing, (pose, active) = DynamicRouting(C, P, iterations).double(), capsules()
    found, on = routing(pose, active)
    for n in range(len(pose)):
        torch.testing.assert_close(
            found[n] * on[n, :, None], slow_dynamic(routing, pose[n], active[n])
        )


@pytest.mark.parametrize("iterations", [1, 3])
def test_em_routing_is_procedure_1_of_hinton(iterations):
    torch.manual_seed(0)
    routing, (pose, active) = EMRouting(C, P, iterations).double(), capsules()
    with torch.no_grad():
        routing.use.copy_(torch.linspace(-0.5, 0.5, C))
        routing.active.copy_(torch.linspace(0.3, -0.4, C))
    found, on = routing(pose, active)
    for n in range(len(pose)):
        mean, above = slow_em(routing, pose[n], active[n])
        torch.testing.assert_close(found[n], mean)
        torch.testing.assert_close(on[n], above)


@pytest.mark.parametrize("kind", [DynamicRouting, EMRouting])
def test_votes_that_agree_draw_more_capsules_than_votes_that_do_not(kind):
    """All vote alike for the first capsule and at random for the others: it ends up as the most
    active."""
    torch.manual_seed(0)
    routing = kind(C, P).double()
    pose, active = torch.ones(1, C, P, dtype=torch.float64), torch.ones(1, C, dtype=torch.float64)
    with torch.no_grad():
        routing.votes.weight[:, 0] = torch.eye(P, dtype=torch.float64)
    assert routing(pose, active)[1].argmax() == 0


@pytest.mark.parametrize("kind", [AttentionRouting, DynamicRouting, EMRouting])
def test_routings_take_no_rows_have_gradients_and_pay_no_heed_to_what_is_off(kind):
    torch.manual_seed(0)
    routing, (pose, active) = kind(C, P).double(), capsules()
    pose.requires_grad_(), active.requires_grad_()
    new, on = routing(pose, active)
    (new.square().sum() + on.square().sum()).backward()
    assert pose.grad.isfinite().all() and active.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in routing.parameters())
    empty = routing(pose[:0], active[:0])
    assert empty[0].shape == (0, C, P) and empty[1].shape == (0, C)
    with torch.no_grad():
        off = active.clone()
        off[:, 1] = 0
        other = pose.clone()
        other[:, 1] = 9
        for a, b in zip(routing(pose, off), routing(other, off)):
            torch.testing.assert_close(a, b)


def test_squash_keeps_the_direction_and_stays_below_one():
    x = torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.0, 0.0]], requires_grad=True)
    short = squash(x)
    torch.testing.assert_close(short.norm(dim=1), torch.tensor([25 / 26, 0.0025 / 1.0025, 0.0]))
    torch.testing.assert_close(cosine_similarity(x[:2], short[:2]), torch.ones(2))
    short.sum().backward()
    assert x.grad.isfinite().all()


def test_a_head_with_an_unknown_routing_offers_the_nearest():
    head = CapsuleHead(5, 2, capsules=C, pose=P, routing="dynamic")
    assert head(torch.randn(6, 5)).shape == (6, 2)
    with pytest.raises(AmodalError, match="dynamic"):
        CapsuleHead(5, 2, capsules=C, pose=P, routing="dynamik")
