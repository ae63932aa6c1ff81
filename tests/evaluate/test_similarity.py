import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from amodal.core import AmodalError
from amodal.stats.rank_correlation import agreement, spearman


def test_ranks_correlate_as_in_scipy_with_ties_too():
    rng = np.random.default_rng(0)
    for levels in (3, 50):
        a, b = rng.integers(levels, size=(2, 60)).astype(float)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(AmodalError, match="one length"):
        spearman([1, 2], [1, 2, 3])


def test_agreement_compares_cosines():
    first = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    second = torch.tensor([[0.0, 5], [1, 1], [3, 0]])
    assert agreement(first, second, [1, 2, 9]) == pytest.approx(1) and agreement(
        first, second, [9, 2, 1]
    ) == pytest.approx(-1)
