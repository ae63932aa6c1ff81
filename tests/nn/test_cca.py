"""The CCA layer against the textbook's generalised eigenproblem."""

import numpy as np
import torch
from scipy.linalg import eigh

from amodal.core import Column
from amodal.stats.cca import Moments, Polar, canonical_maps, covariance


def pair(n=200, d=4, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    a = shared @ rng.normal(size=(d, d)) + 0.7 * rng.normal(size=(n, d)) + 3
    b = shared @ rng.normal(size=(d, d)) + 0.7 * rng.normal(size=(n, d)) - 1
    return torch.from_numpy(a), torch.from_numpy(b)


def column(x):
    return Column(x, torch.arange(len(x)))


def mapped(a, b, **small):
    m = [Moments.of(column(x), column(a)) for x in (a, b)]
    return (a - a.mean(0)) @ canonical_maps(m[0], **small), (b - b.mean(0)) @ canonical_maps(
        *m, **small
    )


def textbook(a, b):
    """Canonical directions of both, from the generalised eigenproblem of the joint covariance."""
    a, b = ((x - x.mean(0)).numpy() for x in (a, b))
    n, d = a.shape
    saa, sbb, sab = a.T @ a / (n - 1), b.T @ b / (n - 1), a.T @ b / (n - 1)
    zero = np.zeros((d, d))
    values, vectors = eigh(
        np.block([[zero, sab], [sab.T, zero]]), np.block([[saa, zero], [zero, sbb]])
    )
    top = np.argsort(-values)[:d]
    u, v = vectors[:d, top] * 2**0.5, vectors[d:, top] * 2**0.5
    return values[top], a @ u, b @ v


def test_cosines_are_those_of_the_textbook_and_correlations_too():
    a, b = pair()
    correlations, x, y = textbook(a, b)
    ours = mapped(a, b, ridge=0.0, least=0.0)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (*map(np.asarray, ours), x, y)]
    np.testing.assert_allclose(unit[0] @ unit[1].T, unit[2] @ unit[3].T, atol=1e-8)
    found = torch.linalg.svdvals(covariance(*ours))
    np.testing.assert_allclose(found.numpy(), correlations, atol=1e-8)
    np.testing.assert_allclose(covariance(ours[1], ours[1]).numpy(), np.eye(4), atol=1e-8)


def test_the_gradient_is_right_even_where_correlations_are_equal_or_none():
    torch.manual_seed(0)
    x = torch.randn(4, 4, dtype=torch.double, requires_grad=True)
    for least in (0.0, 1e-3, 0.5):
        assert torch.autograd.gradcheck(lambda x, least=least: Polar.apply(x, least), x)
    for flat in (torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4)):
        assert torch.autograd.gradcheck(
            lambda x: Polar.apply(x, 0.5), flat.double().requires_grad_()
        )
    a, b = (x.requires_grad_() for x in pair(n=12, d=3))
    assert torch.autograd.gradcheck(mapped, (a, b))


def test_fewer_rows_than_dimensions_and_none_that_are_shared():
    a, b = pair(n=3, d=8)
    assert all(z.isfinite().all() for z in mapped(a, b))
    apart = Column(b, torch.arange(3) + 5)
    assert Moments.of(apart, column(a)).cross is None
    assert Moments.of(column(a[:1]), column(a)) is None
