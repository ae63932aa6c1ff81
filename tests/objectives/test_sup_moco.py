"""SuMoCo's loss and focal loss against their formulas, written out."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from amodal.objectives.focal import focal
from amodal.objectives.info_nce import info_nce
from amodal.objectives.sup_moco import sup_moco


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_sup_moco(q, k, group, t):
    """Row by row, key by key."""
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    losses = []
    for i in range(len(q)):
        positives = [j for j in range(len(k)) if j == i or (group[i] >= 0 and group[j] == group[i])]
        below = sum(math.exp(float(q[i] @ k[a]) / t) for a in range(len(k)))
        losses.append(
            -sum(math.log(math.exp(float(q[i] @ k[p]) / t) / below) for p in positives)
            / len(positives)
        )
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "groups", [[0, 1, 0, 2, 1, 0, 5, 1, -1], [-1] * 9, [3] * 9, [-1, 0, -1, 0, 0, -1, -1, 1, 1]]
)
def test_sup_moco_is_the_formula(groups):
    q, k, group = random(4, 6), random(9, 6, seed=1), torch.tensor(groups)
    found = sup_moco(q, k, group, temperature=0.3)
    assert abs(float(found) - slow_sup_moco(q, k, group, 0.3)) < 1e-9


def test_sup_moco_without_groups_or_queue_is_one_way_of_info_nce():
    q, k = random(7, 5), random(7, 5, seed=1)
    none = torch.full((7,), -1)
    torch.testing.assert_close(
        sup_moco(q, k, none), info_nce(q, k, temperature=0.07, symmetric=False)
    )


def test_sup_moco_gradient_and_blocks():
    q, k = random(4, 3).requires_grad_(), random(8, 3, seed=1)
    group = torch.tensor([0, 1, -1, 0, 1, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda x: sup_moco(x, k, group, temperature=0.5), q)
    torch.testing.assert_close(sup_moco(q, k, group, tile=2), sup_moco(q, k, group))


def test_sup_moco_of_nothing_is_a_connected_zero_and_shapes_are_checked():
    q = random(0, 3).requires_grad_()
    loss = sup_moco(q, random(0, 3), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0 and q.grad is not None
    with pytest.raises(ValueError, match="group of each key"):
        sup_moco(random(4, 3), random(3, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature"):
        sup_moco(random(2, 3), random(3, 3), torch.zeros(3, dtype=torch.int64), temperature=0.0)


def test_focal_is_the_formula():
    logits, label = random(6, 4) * 3, torch.tensor([0, 3, 1, 1, 2, 0])
    expected = 0.0
    for row, y in zip(logits.tolist(), label.tolist()):
        p = math.exp(row[y]) / sum(map(math.exp, row))
        expected -= (1 - p) ** 1.5 * math.log(p) / len(label)
    assert abs(float(focal(logits, label, gamma=1.5)) - expected) < 1e-12
    torch.testing.assert_close(focal(logits, label, gamma=0.0), cross_entropy(logits, label))
    assert torch.autograd.gradcheck(lambda x: focal(x, label), logits.requires_grad_())


def test_focal_of_nothing_and_of_what_is_certain():
    assert float(focal(random(0, 3), torch.zeros(0, dtype=torch.int64))) == 0
    sure = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(sure, torch.tensor([0])).backward()
    assert sure.grad.isfinite().all()
    with pytest.raises(ValueError, match="gamma"):
        focal(random(2, 3), torch.tensor([0, 1]), gamma=-1.0)
