import pytest
import torch

from amodal.objectives.tiles import by_rows


def test_tiles_change_neither_value_nor_gradient():
    torch.manual_seed(0)
    a, b, w = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (13, 9, 13))

    def function(rows, weights):
        return (torch.cdist(rows, b).neg().logsumexp(1)) * weights.sum(1)

    whole, tiled = function(a, w), by_rows(function, a, w, tile=4)
    torch.testing.assert_close(tiled, whole)
    for x, y in zip(
        torch.autograd.grad(tiled.sin().sum(), (a, b, w)),
        torch.autograd.grad(whole.sin().sum(), (a, b, w)),
    ):
        torch.testing.assert_close(x, y)


def test_a_large_matrix_is_never_held_whole():
    """N x N float32 would be 4 GB here; what autograd keeps is watched."""
    n, sizes = 1024, []
    a, b = torch.randn(n, 4, requires_grad=True), torch.randn(n, 4)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        by_rows(lambda rows: (rows @ b.T).exp().logsumexp(1), a, tile=64).sum().backward()
    assert max(sizes) <= 64 * n


def test_rows_must_be_of_one_length():
    with pytest.raises(ValueError, match="one length"):
        by_rows(lambda x, y: x, torch.zeros(3), torch.zeros(2))
    assert by_rows(lambda x: x * 2, torch.zeros(0)).shape == (0,)
