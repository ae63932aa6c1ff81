"""Entailment of boxes against loops over dimensions, and a taxonomy learnt from its conditional
chances."""

import math

import pytest
import torch

from amodal.nn.heads.boxes import ConceptHead, learn_boxes, log_entailment, log_volume


def boxes(n, dims=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, side = (torch.rand(n, dims, dtype=torch.float64, generator=generator) for _ in range(2))
    return low, side + 0.1


def soft(value, softness):
    return softness * math.log1p(math.exp(value / softness))


@pytest.mark.parametrize("softness", [0.05, 0.4])
def test_entailment_is_the_product_over_dimensions(softness):
    (low_a, side_a), (low_b, side_b) = boxes(4), boxes(4, seed=1)
    found, sharp = (
        log_entailment(low_a[:, None], side_a[:, None], low_b, side_b, softness=softness),
        softness / 10,
    )
    for i in range(4):
        for j in range(4):
            expected = 1.0
            for d in range(3):
                a, b = float(low_a[i, d]), float(low_b[j, d])
                top_a, top_b = a + float(side_a[i, d]), b + float(side_b[j, d])
                low = sharp * math.log(math.exp(a / sharp) + math.exp(b / sharp))
                high = -sharp * math.log(math.exp(-top_a / sharp) + math.exp(-top_b / sharp))
                expected *= soft(high - low, softness) / soft(float(side_b[j, d]), softness)
            assert float(found[i, j]) == pytest.approx(math.log(expected))
    assert (found < 0).all()
    total = [sum(math.log(soft(float(s), softness)) for s in row) for row in side_a]
    torch.testing.assert_close(
        log_volume(side_a, softness), torch.tensor(total, dtype=torch.float64)
    )


def test_hard_boxes_contain_overlap_and_miss():
    low = torch.tensor([[0.0, 0.0], [0.25, 0.25], [0.5, 0.0], [3.0, 3.0]], requires_grad=True)
    side = torch.tensor([[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [1.0, 1.0]])
    log_p = log_entailment(low[:, None], side[:, None], low, side, softness=1e-3)
    p = log_p.detach().exp()
    assert p[0, 1] == pytest.approx(1, abs=1e-2) and p[1, 0] == pytest.approx(0.25, abs=1e-2)
    assert p[2, 0] == pytest.approx(0.5, abs=1e-2) and p[3, 0] < 1e-6
    far = log_entailment(low[3], side[3], low[0], side[0], softness=0.2)
    far.backward()
    assert (low.grad[3] < 0).all() and low.grad[3].isfinite().all()  # nearer would follow more


def test_a_taxonomy_is_learnt_from_its_chances():
    """red and blue are colours, nothing is both, and a third of what is coloured is red."""
    conditional = torch.tensor([[1, 1, 1], [1 / 3, 1, 0], [2 / 3, 0, 1]])
    low, side = learn_boxes(conditional, dims=8, softness=0.1, steps=600)
    p = log_entailment(low[:, None], side[:, None], low, side, softness=0.1).exp()
    off = ~torch.eye(3, dtype=torch.bool)
    assert (p - conditional)[off].abs().max() < 0.15
    rebuilt = learn_boxes(conditional, dims=8, softness=0.1, steps=600)
    assert torch.equal(low, rebuilt[0]) and torch.equal(side, rebuilt[1])


def test_a_head_reads_its_concepts():
    head = ConceptHead(5, 3, dims=4, softness=0.1)
    before = head(torch.ones(2, 5))
    low, side = boxes(3, 4)
    head.set_concepts(low, side)
    x = torch.randn(6, 5)
    own_low, own_side = head.box(x)
    for k in range(3):
        one = log_entailment(low[k].float(), side[k].float(), own_low, own_side, softness=0.1)
        torch.testing.assert_close(head.log_membership(x)[:, k], one)
    assert head(x).shape == (6, 3) and not torch.equal(before, head(torch.ones(2, 5)))
    assert {n for n, _ in head.named_buffers()} == {"low", "side"}
