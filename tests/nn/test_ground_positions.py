"""Positions on the ground: metres, and months of the year."""

import math

import torch

from amodal.core.tokens import DATE, METRES
from amodal.nn.positions import Ground, additive


def test_places_of_fields_with_other_resolutions_agree_in_metres():
    module = additive("ground", 64)
    assert isinstance(module, Ground) and not list(module.parameters())
    fine = torch.tensor([[3.0, 4.0, 8.0]])
    coarse = torch.tensor([[3.0, 1.0, 2.0]])
    a = module(fine, {METRES: torch.tensor([10.0])})
    b = module(coarse, {METRES: torch.tensor([40.0])})
    torch.testing.assert_close(a, b)
    # ten metres are one step, as of tokens that do not know
    torch.testing.assert_close(a, module(fine))
    torch.testing.assert_close(a, module(fine, {METRES: torch.tensor([math.nan])}))
    assert not torch.allclose(b, module(coarse))


def test_a_quarter_each_for_time_month_height_and_width():
    module, width = Ground(64), 64
    base = module(torch.zeros(1, 3), {DATE: torch.zeros(1)})
    changed = {
        "time": module(torch.tensor([[5.0, 0, 0]]), {DATE: torch.zeros(1)}),
        "height": module(torch.tensor([[0, 5.0, 0]]), {DATE: torch.zeros(1)}),
        "width": module(torch.tensor([[0, 0, 5.0]]), {DATE: torch.zeros(1)}),
        "month": module(torch.zeros(1, 3), {DATE: torch.tensor([3.0])}),
    }
    at = {name: set((made != base)[0].nonzero()[:, 0].tolist()) for name, made in changed.items()}
    assert all(len(dimensions) == width // 4 for dimensions in at.values())
    assert len(set.union(*at.values())) == width


def test_wavelengths_and_months():
    module = Ground(16, base=100.0)
    made = module(torch.tensor([[2.0, 0, 0]]), {DATE: torch.tensor([250.0])})[0]
    assert math.isclose(made[0], math.sin(2.0), rel_tol=1e-5)
    assert math.isclose(made[1], math.sin(2.0 / 10), rel_tol=1e-5)
    assert math.isclose(made[6], math.cos(2.0), rel_tol=1e-5)
    turn = 2 * math.pi * 250 / 12
    assert made[12:].allclose(
        torch.tensor([math.sin(turn), math.sin(turn), math.cos(turn), math.cos(turn)]), atol=1e-5
    )
    # the same month of another year
    other = module(torch.tensor([[2.0, 0, 0]]), {DATE: torch.tensor([262.0])})[0]
    torch.testing.assert_close(made, other, atol=1e-4, rtol=0)


def test_no_month_where_none_is_known():
    module, place = Ground(64), torch.zeros(2, 3)
    some = module(place, {DATE: torch.tensor([math.nan, 1.0])})
    torch.testing.assert_close(some[0], module(place)[0])
    assert not torch.allclose(some[1], module(place)[1])


def test_a_width_that_8_does_not_divide():
    assert Ground(20)(torch.ones(2, 3)).shape == (2, 20)
