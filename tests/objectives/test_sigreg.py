"""SIGReg against the statistic of Epps and Pulley (1983) in closed form, and against autograd."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from amodal.objectives.sigreg import sigreg

PAPER = {"limit": 5.0, "points": 17}


def slices(number, width, seed=0):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed)).double()


def closed_form(x):
    """n int |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt over the whole line, by Gaussian integrals."""
    n, root = len(x), math.sqrt(2 * math.pi)
    pairs = sum(math.exp(-((a - b) ** 2) / 2) for a in x for b in x) / n
    singles = sum(math.exp(-(a**2) / 4) for a in x) * math.sqrt(2)
    return root * (pairs - singles + n / math.sqrt(3))


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.7, 0.3), (-2.0, 2.0), (0.0, 0.0)])
def test_with_many_knots_it_is_the_integral(shift, scale):
    x = (shift + scale * slices(9, 1, seed=3)).squeeze(1)
    found = sigreg(x[:, None], torch.ones(1, 1), limit=9.0, points=401)
    assert float(found) == pytest.approx(closed_form(x.tolist()), rel=1e-9)


@pytest.mark.parametrize("points", [3, 5, 17])
@pytest.mark.parametrize("tile", [1, 3, 64])
def test_value_and_gradient_are_those_of_autograd(points, tile):
    z, a = slices(6, 4, seed=1).requires_grad_(), slices(7, 4)
    t = torch.linspace(-2.5, 2.5, points, dtype=torch.float64)
    angle = (z @ normalize(a, dim=1).T)[:, :, None] * t
    phi, normal = torch.polar(torch.ones_like(angle), angle).mean(0), (-t.square() / 2).exp()
    expected = 6 * torch.trapezoid((phi - normal).abs().square() * normal, t, dim=1).mean()
    found = sigreg(z, a, limit=2.5, points=points, tile=tile)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(expected, z)[0]
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, z)[0], 3 * wanted, rtol=1e-9, atol=1e-12
    )


def test_a_slice_is_a_direction_whatever_its_length():
    z, a = slices(6, 4, seed=1), slices(3, 4)
    assert torch.allclose(
        sigreg(z, a, **PAPER), sigreg(z, a * torch.tensor([[0.1], [7.0], [1.0]]), **PAPER)
    )


def test_large_embeddings_have_a_finite_loss_and_gradient():
    z = (1e6 * slices(8, 4, seed=2)).float().requires_grad_()
    sigreg(z, slices(5, 4), **PAPER).backward()
    assert z.grad.isfinite().all()


def test_a_gaussian_costs_less_than_a_collapse_and_another_shape():
    n, a = 2000, slices(64, 6)
    z = slices(n, 6, seed=5)
    # of Gaussian samples the mean is int (1 - exp(-t^2)) exp(-t^2/2) dt, whatever their number
    assert float(sigreg(z, a, **PAPER)) == pytest.approx(
        math.sqrt(2 * math.pi) * (1 - 3**-0.5), rel=0.3
    )
    assert sigreg(0 * z, a, **PAPER) > 100
    assert sigreg(z, a, **PAPER) < sigreg(0.5 * z, a, **PAPER) and sigreg(z, a, **PAPER) < sigreg(
        2 * z, a, **PAPER
    )
    flat = z.clone()
    flat[:, 3:] = flat[:, :3]  # each dimension is Gaussian, together they are not isotropic
    assert sigreg(z, a, **PAPER) < sigreg(flat, a, **PAPER)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"limit": 0.0}, "limit must be above 0"),
        ({"points": 4}, "odd and at least 3, got 4"),
        ({"points": 1}, "odd and at least 3, got 1"),
    ],
)
def test_wrong_knots(arguments, message):
    with pytest.raises(ValueError, match=message):
        sigreg(torch.zeros(3, 2), torch.ones(1, 2), **PAPER | arguments)


def test_wrong_slices():
    with pytest.raises(ValueError, match="of one width"):
        sigreg(torch.zeros(3, 2), torch.ones(4, 3), **PAPER)
    with pytest.raises(ValueError, match="at least one slice"):
        sigreg(torch.zeros(3, 2), torch.ones(0, 2), **PAPER)
