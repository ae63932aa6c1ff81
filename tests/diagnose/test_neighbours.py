"""mutual_knn against sorted loops; the choice of layers where the answer is known."""

import pytest
import torch
import torch.nn.functional as F

from amodal.diagnose.neighbours import layer_agreement, most_alike, mutual_knn, nearest


def reference(a, b, k):
    total = 0
    for i in range(len(a)):
        sets = []
        for z in (a, b):
            near = sorted(
                (j for j in range(len(z)) if j != i),
                key=lambda j: -F.cosine_similarity(z[i], z[j], dim=0).item(),
            )  # noqa: B023
            sets.append(set(near[:k]))
        total += len(sets[0] & sets[1]) / k
    return total / len(a)


@pytest.mark.parametrize("k", [1, 3])
def test_overlap_of_neighbours(k):
    torch.manual_seed(0)
    a = torch.randn(12, 4)
    b = torch.cat([a[:, :2], torch.randn(12, 3)], 1)
    assert mutual_knn(a, b, k=k) == pytest.approx(reference(a, b, k))
    assert mutual_knn(a, 5 * a, k=k) == 1
    assert torch.equal(nearest(a, k, tile=5), nearest(a, k))


def test_the_layers_that_see_the_same_are_found():
    torch.manual_seed(0)
    shared = torch.randn(60, 8)
    a = [torch.randn(60, 8), shared + 0.1 * torch.randn(60, 8), torch.randn(60, 8)]
    b = [shared, torch.randn(60, 5)]
    agreement = layer_agreement(a, b, k=5)
    assert agreement.shape == (3, 2) and most_alike(agreement) == (1, 0)
    assert agreement[1, 0] > 0.5 > agreement[0, 0]
    assert most_alike(torch.ones(2, 3)) == (1, 2)


def test_more_neighbours_than_rows_is_an_error():
    with pytest.raises(ValueError, match="3 rows"):
        mutual_knn(torch.randn(3, 2), torch.randn(3, 2), k=3)
