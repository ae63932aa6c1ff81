"""The focal contrast against a loop over the published formula."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.focal_info_nce import focal_info_nce
from amodal.objectives.info_nce import info_nce


def reference(a, b, temperature, gamma):
    a, b, total = F.normalize(a, dim=1), F.normalize(b, dim=1), 0.0
    for i in range(len(a)):
        e = [torch.exp(a[i] @ b[j] / temperature) for j in range(len(b))]
        p = e[i] / sum(e)
        total = total - (1 - p) ** gamma * torch.log(p)
    return total / len(a)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("strangers, tile", [(0, 256), (3, 2)])
def test_it_is_the_published_sum(same, pair, gamma, strangers, tile):
    a, b = pair(6, 5)
    more = pair(3, 5, seed=9)[0][:strangers]
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: focal_info_nce(
            a, torch.cat([b, more]), temperature=t, gamma=gamma, tile=tile
        ),
        lambda a, b, t: reference(a, torch.cat([b, more]), t, gamma),
        [a, b, temperature],
    )


def test_gamma_zero_is_info_nce_and_more_of_it_ignores_easy_pairs(pair):
    a, b = pair(6, 5)
    both = [focal_info_nce(x, y, temperature=0.2, gamma=0.0) for x, y in ((a, b), (b, a))]
    torch.testing.assert_close(sum(both) / 2, info_nce(a, b, temperature=0.2))
    # row 0 has found its partner, row 1 has not: gamma moves the gradient to row 1
    found = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.1], [0.8, -0.6]])
    share = []
    for gamma in (0.0, 2.0):
        x = found[0].clone().requires_grad_()
        focal_info_nce(x, found[1], temperature=0.2, gamma=gamma).backward()
        share.append((x.grad[0].norm() / x.grad[1].norm()).item())
    assert 0 < share[1] < share[0] / 2


def test_sure_pairs_have_finite_gradients():
    a = torch.eye(4, requires_grad=True)
    for gamma in (0.3, 1.0, 2.0):
        focal_info_nce(a, torch.eye(4), temperature=0.005, gamma=gamma).backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("n, m", [(0, 0), (1, 1), (0, 3)])
def test_no_negatives_give_a_connected_zero(n, m):
    a, b = torch.randn(n, 4, requires_grad=True), torch.randn(m, 4, requires_grad=True)
    loss = focal_info_nce(a, b, temperature=0.1)
    loss.backward()
    assert loss == 0 and a.grad is not None and b.grad is not None


def test_errors():
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match="M >= N"):
        focal_info_nce(z, z[:3], temperature=0.1)
    with pytest.raises(ValueError, match="gamma"):
        focal_info_nce(z, z, temperature=0.1, gamma=-1.0)
    with pytest.raises(ValueError, match="above 0"):
        focal_info_nce(z, z, temperature=0.0)
