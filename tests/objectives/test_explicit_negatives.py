"""InfoNCE with a further negative for each row, against loops."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from amodal.objectives.explicit_negatives import explicit_negative_nce
from amodal.objectives.info_nce import info_nce


def reference(a, b, negatives, has, temperature):
    def cos(x, y):
        return float(cosine_similarity(x, y, dim=0))

    total = 0.0
    for i in range(len(a)):
        logits = [
            cos(a[i], b[j]) / temperature
            for j in range(len(a))
            if j == i or cos(b[i], b[j]) < 0.9999
        ]
        if has[i] and cos(b[i], negatives[i]) < 0.9999:
            logits.append(cos(a[i], negatives[i]) / temperature)
        total += math.log(sum(map(math.exp, logits))) - cos(a[i], b[i]) / temperature
    return total / len(a)


@pytest.mark.parametrize("tile", [2, 256])
def test_it_is_the_published_loss(tile):
    torch.manual_seed(0)
    a, b, own = (torch.randn(7, 5, dtype=torch.float64) for _ in range(3))
    b[4] = 3 * b[1]  # the same target twice
    own[2] = b[2]  # an edit that changed nothing
    has = torch.tensor([1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
    loss = explicit_negative_nce(a, b, own, has, temperature=0.3, tile=tile)
    assert abs(float(loss) - reference(a, b, own, has, 0.3)) < 1e-9


def test_without_further_negatives_it_is_info_nce():
    torch.manual_seed(1)
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    none = torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(
        explicit_negative_nce(a, b, a, none, temperature=0.2),
        info_nce(a, b, temperature=0.2, symmetric=False),
    )


def test_gradients_tiles_and_no_rows():
    torch.manual_seed(2)
    a, b, own = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    has = torch.tensor([True, False, True, True, False])
    assert torch.autograd.gradcheck(
        lambda *x: explicit_negative_nce(*x, has, temperature=0.5, tile=2), (a, b, own)
    )
    nothing = explicit_negative_nce(a[:0], b[:0], own[:0], has[:0], temperature=0.5)
    nothing.backward()
    assert float(nothing) == 0
    with pytest.raises(ValueError):
        explicit_negative_nce(a, b, own, has, temperature=0.0)
    with pytest.raises(ValueError, match="explicit_negative_nce compares"):
        explicit_negative_nce(a, b[:4], own, has, temperature=0.5)
