"""barlow_twins, decur, vicreg against explicit D x D loops and lightly; both sides of N < D."""

import math

import pytest
import torch

from amodal.objectives.barlow import barlow_twins, cross_correlation_terms
from amodal.objectives.decur import decur
from amodal.objectives.square_sum import cross_square_sum, self_square_sum
from amodal.objectives.vicreg import vicreg

SHAPES = [(5, 9), (9, 5), (6, 6), (2, 3)]


def correlation(a, b):
    def standardise(z):
        return (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()

    return standardise(a).T @ standardise(b) / len(a)


def identity_loss(c, diagonal, weight):
    total = 0.0
    for i in range(len(c)):
        for j in range(len(c)):
            total = total + ((diagonal - c[i, i]) ** 2 if i == j else weight * c[i, j] ** 2)
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_barlow_is_equation_1(pair, same, shape):
    same(
        lambda a, b: barlow_twins(a, b, off_diagonal=0.1),
        lambda a, b: identity_loss(correlation(a, b), 1, 0.1),
        pair(*shape),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_terms(pair, shape):
    a, b = pair(*shape)
    diagonal, total = cross_correlation_terms(a, b)
    c = correlation(a, b)
    torch.testing.assert_close(diagonal, c.diagonal())
    torch.testing.assert_close(total, c.square().sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_square_sums(pair, shape):
    a, b = pair(*shape)
    torch.testing.assert_close(cross_square_sum(a, b), (a.T @ b).square().sum())
    torch.testing.assert_close(self_square_sum(a), (a.T @ a).square().sum())
    assert torch.autograd.gradcheck(cross_square_sum, (a, b)) and torch.autograd.gradcheck(
        self_square_sum, (a,)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("common", [0.0, 0.4, 1.0])
def test_decur_is_equations_2_to_5(pair, same, shape, common):
    split = round(common * shape[1])

    def reference(a, b):
        c = correlation(a, b)
        one = identity_loss(c[:split, :split], 1, 0.1)
        return one + 3 * identity_loss(c[split:, split:], 0, 0.1)

    def ours(a, b):
        one, other = decur(a, b, common=common, off_diagonal=0.1)
        return one + 3 * other

    same(ours, reference, pair(*shape))


def test_decur_wants_a_share(pair):
    with pytest.raises(ValueError, match="between 0 and 1, got 64"):
        decur(*pair(4, 3), common=64)


@pytest.mark.parametrize("shape", SHAPES)
def test_vicreg_is_the_authors_program(pair, same, shape):
    def reference(a, b):
        n, d = a.shape
        loss = 2.0 * sum(((a[i] - b[i]) ** 2).sum() for i in range(n)) / (n * d)
        for z in (a, b):
            centred = z - z.mean(0)
            cov = centred.T @ centred / (n - 1)
            spread = sum(torch.relu(1 - (cov[j, j] + 1e-4).sqrt()) for j in range(d)) / d
            off = sum(cov[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
            loss = loss + 3.0 * spread / 2 + 0.5 * off
        return loss

    same(
        lambda a, b: vicreg(a, b, invariance=2, variance=3, covariance=0.5),
        reference,
        pair(*shape, scale=0.8),
    )


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_agrees_with_lightly(pair, same, shape):
    lightly = pytest.importorskip("lightly.loss")
    same(barlow_twins, lightly.BarlowTwinsLoss(), pair(*shape))
    same(vicreg, lightly.VICRegLoss(), pair(*shape))


def test_float32_near_the_optimum_stays_non_negative():
    # total - diagonal^2 is a difference of close numbers here; it must not turn visibly negative.
    z = torch.linalg.qr(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))[0][
        :, :256
    ]
    assert -1e-3 < barlow_twins(z, z, off_diagonal=1.0) < 3
    assert math.isfinite(vicreg(z, z))
