"""The Chamfer distance against its formula, pair by pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.objectives.chamfer import chamfer


def naive(prediction, target):
    losses = []
    for a, b in zip(prediction, target):
        b = b[~b.isnan().any(1)]
        if not len(b):
            losses.append(a.sum() * 0)
            continue
        there = [min(((p - q) ** 2).sum() for q in b) for p in a]
        back = [min(((p - q) ** 2).sum() for p in a) for q in b]
        losses.append(sum(there) / len(a) + sum(back) / len(b))
    return torch.stack(losses)


def drawn(seed, sets=4, predicted=5, wanted=7):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(sets, predicted, 3, generator=generator).double().requires_grad_()
    target = torch.randn(sets, wanted, 3, generator=generator).double()
    target[0, 2:] = torch.nan
    target[1] = torch.nan
    return prediction, target


@pytest.mark.parametrize("sizes", [(4, 5, 7), (2, 1, 1), (3, 6, 2), (5, 2, 6)])
def test_values_and_gradients_are_those_of_the_formula(sizes):
    prediction, target = drawn(0, *sizes)
    made, expected = chamfer(prediction, target), naive(prediction, target)
    torch.testing.assert_close(made, expected)
    weight = torch.arange(1.0, len(made) + 1).double()
    slopes = [torch.autograd.grad((x * weight).sum(), prediction)[0] for x in (made, expected)]
    torch.testing.assert_close(*slopes)
    assert made[1] == 0 and (slopes[0][1] == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_no_order_of_points_matters(seed):
    prediction, target = drawn(seed)
    shuffle = torch.Generator().manual_seed(seed)
    moved = [x[:, torch.randperm(x.shape[1], generator=shuffle)] for x in (prediction, target)]
    torch.testing.assert_close(chamfer(prediction, target), chamfer(*moved))


def test_a_set_is_at_no_distance_from_itself_and_shapes_are_checked():
    _, target = drawn(0)
    assert (chamfer(target[2:], target[2:]) == 0).all()
    assert chamfer(target[:0, :2], target[:0]).shape == (0,)
    with pytest.raises(ValueError, match="must be"):
        chamfer(target[:1], target)
