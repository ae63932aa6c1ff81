"""Kernel ridge regression against scikit-learn, and its leave-one-out error against leaving each
row out."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer

from amodal.stats.kernel_ridge import Gaussian, kernel_ridge


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=g)
    return (
        x,
        torch.stack([x[:, 0].sin(), x[:, 1] * x[:, 2]], 1) + 0.1 * torch.randn(30, 2, generator=g),
        x[:7] + 0.3,
    )


def test_it_is_scikit_learns():
    x, y, new = data()
    kernel = Gaussian.of(x)
    (_, _, width, _) = kernel.parts[0]
    predict, _ = kernel_ridge(x, y, kernel, penalties=[0.05])
    centre = KernelCenterer().fit(kernel(x, x).numpy())
    peer = KernelRidge(alpha=0.05, kernel="precomputed")
    peer.fit(centre.transform(kernel(x, x).numpy()), (y.double() - y.double().mean(0)).numpy())
    expected = peer.predict(centre.transform(kernel(new, x).numpy())) + y.double().mean(0).numpy()
    np.testing.assert_allclose(predict(new), expected, atol=1e-8)
    np.testing.assert_allclose(
        kernel(x, new), rbf_kernel(x.double(), new.double(), gamma=width**-2), atol=1e-10
    )


def test_the_error_is_that_of_leaving_each_out():
    x, y, _ = data()
    kernel, errors = Gaussian.of(x), {}
    for penalty in (1e-3, 1e-1, 10.0):
        fit, total = kernel_ridge(x, y, kernel, penalties=[penalty])[1], 0.0
        for i in range(len(x)):
            rest = torch.arange(len(x)) != i
            left = kernel_ridge(x[rest], y[rest], kernel, penalties=[penalty])[0](x[i : i + 1])
            total += float((left - y[i]).square().sum()) / len(x)
        errors[penalty] = fit
        assert fit == pytest.approx(total, rel=1e-6)
    assert kernel_ridge(x, y, kernel, penalties=list(errors))[1] == min(errors.values())


def test_a_part_with_no_weight_does_not_count():
    x, y, new = data()
    alone, both = Gaussian.of(x), Gaussian.of(x, torch.randn(30, 3), weights=(1.0, 0.0))
    assert torch.allclose(
        alone(new, x),
        both(torch.cat([new, torch.randn(7, 3)], 1), torch.cat([x, torch.ones(30, 3)], 1)),
    )
    assert alone(x, x).diagonal().eq(1).all()
    with pytest.raises(ValueError, match="two rows"):
        kernel_ridge(x[:1], y[:1], alone)
