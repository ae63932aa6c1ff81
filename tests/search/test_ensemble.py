"""Several models as one index."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError
from amodal.search.ensemble import ensemble


def test_products_are_weighted_means_of_cosines():
    torch.manual_seed(0)
    vectors, weights = (
        [torch.randn(5, 3), torch.randn(5, 7) * 9, torch.randn(5, 2)],
        [1.0, 3.0, 0.5],
    )
    one = ensemble(vectors, weights)
    assert one.shape == (5, 12)
    for i in range(5):
        for j in range(5):
            cosines = [float(F.cosine_similarity(v[i], v[j], dim=0)) for v in vectors]
            want = sum(w * c for w, c in zip(weights, cosines)) / sum(weights)
            assert float(one[i] @ one[j]) == pytest.approx(want, abs=1e-6)
    torch.testing.assert_close(ensemble(vectors), ensemble(vectors, [2, 2, 2]))


def test_what_does_not_fit():
    a, b = torch.randn(3, 2), torch.randn(4, 2)
    with pytest.raises(AmodalError, match="same records"):
        ensemble([a, b])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(AmodalError, match="weights"):
            ensemble([a, a], weights)
