"""What the page of capsule_attn does beside the contract: records of one item do not push each
other away."""

import dataclasses
from functools import partial

import pytest
import torch

from amodal.core import AmodalError, Column
from amodal.nn.heads.capsules import CapsuleHead, EMRouting, squash
from tests.methods.bench import batch, method


def loss_of(items, label="kind"):
    whole = batch(("plain",), patchy=False)
    labels = {"kind": Column(torch.tensor(items), torch.arange(len(items)))}
    m = method("capsule_attn", label=label)
    return float(sum(m.losses(m.features(dataclasses.replace(whole, labels=labels))).values()))


def test_rows_of_one_item_are_no_negatives_of_each_other():
    assert loss_of([0] * 8) == pytest.approx(0, abs=1e-6)
    apart, plain = loss_of(list(range(8))), loss_of([0] * 8, label="")
    assert apart == pytest.approx(plain) and loss_of([0, 0, *range(2, 8)]) < apart


def test_an_unknown_routing_offers_the_nearest_and_heads_are_of_one_kind():
    with pytest.raises(AmodalError, match="attention"):
        method("capsule_attn", routing="atention")
    with pytest.raises(AmodalError, match="hidden"):
        method("clip").encoder.align(4, hidden=3, head=partial(CapsuleHead, capsules=2, pose=2))


@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_the_other_routings_learn_too(routing):
    m = method("capsule_attn", routing=routing)
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    votes = [p.grad for n, p in m.named_parameters() if "votes" in n]
    assert len(votes) == 4 and all(g.abs().sum() > 0 for g in votes)


def test_capsules_that_are_off_or_far_apart_have_finite_gradients():
    x = torch.zeros(2, 3, requires_grad=True)
    squash(x).sum().backward()
    assert x.grad.isfinite().all()
    routing = EMRouting(4, 3)
    for scale, active in ((1.0, torch.zeros(2, 4)), (1e6, torch.ones(2, 4))):
        pose = (scale * torch.randn(2, 4, 3)).requires_grad_()
        poses, above = routing(pose, active)
        (poses.sum() + above.sum()).backward()
        assert poses.isfinite().all() and above.isfinite().all() and pose.grad.isfinite().all()
