import math

import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.diagnose.geometry import geometry, modality_gap
from amodal.diagnose.spectrum import deviations, effective_rank, spectrum


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (20, 20)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(z.double())
    share = values / values.sum()
    assert effective_rank(z).item() == pytest.approx(
        math.exp(-(share * share.log()).sum()), rel=1e-6
    )


def test_effective_rank_at_its_ends():
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7)
    assert effective_rank(torch.ones(9, 1) @ torch.randn(1, 5)).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(4, 3)).item() == 0 == effective_rank(torch.zeros(0, 3)).item()


def test_deviations_see_a_dead_dimension():
    z = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    z[:, 2] = 0
    assert deviations(z)[2] == 0 and deviations(z)[torch.arange(6) != 2].min() > 0.9


def test_tables_over_sources():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 6, generator=g), torch.randn(20, 6, generator=g)
    e = Embeddings(
        {
            "a": Column(a, torch.arange(30)),
            "b": Column(b + 9, torch.arange(20) + 10),
            "c": Column(a[:1], torch.arange(1)),
        },
        30,
    )
    assert [row["source"] for row in spectrum(e)] == ["a", "b"]
    (row,) = geometry(e)
    assert (row["source"], row["target"], row["n"]) == ("a", "b", 20) and row["gap"] > 0.5
    assert modality_gap(a, a).item() == 0
