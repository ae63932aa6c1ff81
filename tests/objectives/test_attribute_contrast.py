"""Attribute-level contrast against a loop, and what is drawn against the chances it should have."""

import pytest
import torch

from amodal.core import row_seeds
from amodal.objectives.attribute_contrast import attribute_contrast, draw_attribute_rows

ATTRIBUTES = torch.tensor(
    [
        [1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 1, 0, 3],
        [1, 0, 1, 0, 3],
    ]
).double()  # the first two entries are attribute 0
GROUP = torch.tensor([0, 0, 0, 0, 0, 1])
VALUE = ATTRIBUTES[:, :1]


def draw(times=1, **options):
    many = [t.repeat(times, *[1] * (t.dim() - 1)) for t in (GROUP, VALUE, ATTRIBUTES)]
    return draw_attribute_rows(*many, row_seeds([str(i) for i in range(6 * times)]), **options)


def test_positives_share_the_value_in_another_class_and_others_have_another_value():
    positive, others = draw()
    assert (
        positive[0] == 1
        and positive[2] == 1
        and positive[1] in (0, 2)
        and positive[3] == 4
        and positive[5] == -1
    )
    assert (
        set(others[0, :2].tolist()) == {3, 4} and others[0, 2] == 5
    )  # another attribute masked only fills up
    assert others[0, 3] == -1 and set(others[3, :3].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["positive", "other"])
def test_far_positives_and_near_others_are_drawn_by_the_square_of_the_distance(kind):
    attributes = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]) if kind == "positive" else None
    if kind == "other":
        attributes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    drawn = []
    for trial in range(3000):
        seeds = row_seeds([f"{trial} {i}" for i in range(3)])
        positive, others = draw_attribute_rows(
            torch.zeros(3).long(), attributes[:, :1], attributes, seeds, negatives=1
        )
        drawn.append(positive[0] if kind == "positive" else others[0, 0])
    share = (torch.stack(drawn) == (2 if kind == "positive" else 1)).double().mean()
    assert abs(share - 0.8) < 0.03  # distances 1 and 2


def test_the_order_of_rows_does_not_matter():
    seeds = row_seeds(list("abcdef"))
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    one, many = draw_attribute_rows(GROUP, VALUE, ATTRIBUTES, seeds)
    other, others = draw_attribute_rows(GROUP[order], VALUE[order], ATTRIBUTES[order], seeds[order])
    back = torch.cat([order, torch.tensor([-1])])
    assert torch.equal(back[other], one[order]) and torch.equal(back[others], many[order])


def test_it_is_the_published_sum(same):
    z = torch.randn(
        6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    positive, others = draw()

    def reference(z):
        losses = []
        for i in range(6):
            negatives = [torch.exp(z[i] @ z[j]) for j in others[i].tolist() if j >= 0]
            if positive[i] >= 0 and negatives:
                own = torch.exp(z[i] @ z[positive[i]])
                losses.append(-torch.log(own / (own + sum(negatives))))
        return sum(losses) / len(losses)

    same(lambda z: attribute_contrast(z, positive, others), reference, [z])


def test_nothing_to_compare_is_a_connected_zero():
    for n in (0, 1):
        z = torch.randn(n, 3, requires_grad=True)
        drawn = draw_attribute_rows(
            torch.zeros(n).long(), torch.zeros(n, 1), torch.ones(n, 2), row_seeds(["a"] * n)
        )
        loss = attribute_contrast(z, *drawn)
        loss.backward()
        assert loss == 0 and z.grad is not None
