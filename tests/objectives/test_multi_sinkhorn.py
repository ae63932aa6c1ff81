"""multi_sinkhorn against the K x N x K tensor of the paper, and its cost against the formula."""

import pytest
import torch

from amodal.objectives.multi_sinkhorn import anchor_cost, multi_sinkhorn


def slices(scores, share, epsilon, iterations):
    n, k = scores.shape
    r = max(1, int(share * k))
    factor = torch.ones(k, dtype=scores.dtype)
    factor[: k - r] = 0.25
    a = torch.stack([(scores * f / epsilon).exp() for f in factor])
    for _ in range(iterations):
        a = a * (n / k) / a.sum(1, keepdim=True)
        a = a / a.sum(0, keepdim=True)
        a = a / a.sum(2, keepdim=True)
    summed = a[-r:].sum(0)
    return torch.stack([(row - row.min()) / (row.max() - row.min()) for row in summed])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_two_slices_stand_for_all(share, iterations):
    scores = (
        torch.rand(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    mine = multi_sinkhorn(scores, share=share, epsilon=0.1, iterations=iterations)
    torch.testing.assert_close(mine, slices(scores, share, 0.1, iterations))


def test_a_larger_share_assigns_to_more_anchors():
    scores = torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    few, many = (
        multi_sinkhorn(scores, share=s).gt(0.5).sum(1).float().mean() for s in (1 / 16, 0.75)
    )
    assert few < many
    assert multi_sinkhorn(scores, epsilon=1e-3).isfinite().all()


def test_cost_is_binary_cross_entropy_of_exponentials(same):
    scores = (torch.rand(4, 3, dtype=torch.float64) * 2 - 1).requires_grad_()
    target = torch.rand(4, 3, dtype=torch.float64)

    def reference(s):
        p = torch.sigmoid((s / 0.5).exp())
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()

    same(lambda s: anchor_cost(s, target, temperature=0.5), reference, [scores])


def test_edges():
    assert multi_sinkhorn(torch.zeros(0, 4)).shape == (0, 4)
    assert multi_sinkhorn(torch.tensor([[0.3, 0.1]])).isfinite().all()
    empty = torch.zeros(0, 4, requires_grad=True)
    anchor_cost(empty, torch.zeros(0, 4)).backward()
    assert empty.grad.shape == (0, 4)
    with pytest.raises(ValueError, match="share"):
        multi_sinkhorn(torch.zeros(2, 2), share=1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        anchor_cost(torch.zeros(2, 2), torch.zeros(2, 3))
