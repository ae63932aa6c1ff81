"""TwoNN against a loop and where the dimension is known; anisotropy from the covariance."""

import math

import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.diagnose.dimension import anisotropy, dimension, intrinsic_dimension


def reference(z, trimmed):
    mu = []
    for i in range(len(z)):
        apart = sorted(float((z[i] - z[j]).norm()) for j in range(len(z)) if j != i)
        if apart[0] > 0:
            mu.append(apart[1] / apart[0])
    mu.sort()
    points = [
        (math.log(m), -math.log(1 - (k + 1) / len(mu)))
        for k, m in enumerate(mu[: round(len(mu) * (1 - trimmed))])
    ]
    return sum(x * y for x, y in points) / sum(x * x for x, _ in points)


@pytest.mark.parametrize("trimmed", [0.1, 0.3])
def test_two_nn_is_the_slope_of_a_loop(trimmed):
    torch.manual_seed(0)
    z = torch.randn(40, 5)
    z = torch.cat([z, z[:1]])  # two that are equal say nothing
    assert intrinsic_dimension(z, trimmed=trimmed, tile=7) == pytest.approx(
        reference(z, trimmed), rel=1e-5
    )


@pytest.mark.parametrize("known", [1, 2, 5])
def test_a_sheet_in_a_wide_space_has_its_own_dimension(known):
    torch.manual_seed(0)
    sheet = torch.rand(1500, known) @ torch.randn(known, 20)
    assert intrinsic_dimension(sheet) == pytest.approx(known, rel=0.15)
    assert intrinsic_dimension(sheet, trimmed=0) == pytest.approx(known, rel=0.25)


def test_anisotropy_is_the_share_of_the_first_direction():
    torch.manual_seed(0)
    z = torch.randn(200, 6) * torch.tensor([3.0, 1, 1, 1, 1, 1]) + 10
    values = torch.linalg.eigvalsh(torch.cov(z.T, correction=0))
    assert anisotropy(z) == pytest.approx(float(values[-1] / values.sum()), rel=1e-4)
    assert anisotropy(torch.randn(50, 1) * torch.ones(4)) == pytest.approx(1)
    assert math.isnan(anisotropy(torch.ones(5, 3))) and math.isnan(
        intrinsic_dimension(torch.ones(5, 3))
    )


def test_a_row_for_each_source_that_has_enough():
    columns = {
        "a": Column(torch.randn(20, 4), torch.arange(20)),
        "b": Column(torch.randn(2, 4), torch.arange(2)),
    }
    (row,) = dimension(Embeddings(columns, 20))
    assert (
        row["source"] == "a"
        and row["n"] == 20
        and row["intrinsic"] > 0
        and 0 < row["anisotropy"] <= 1
    )
    assert math.isnan(intrinsic_dimension(torch.zeros(0, 3))) and math.isnan(
        intrinsic_dimension(torch.zeros(1, 3))
    )
