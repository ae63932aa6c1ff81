"""The spectral term against power iteration, where it is known, and its gradient."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.leading_singular import leading_singular


def reference(a, b, relative):
    """Singular values one by one, by power iteration on what the larger ones have left."""
    s = torch.tensor(
        [[float(F.cosine_similarity(x, y, dim=0)) for y in b] for x in a], dtype=torch.float64
    )
    found, rest = [], s.clone()
    for _ in range(len(s)):
        v = torch.ones(len(s), dtype=torch.float64) + torch.arange(len(s)) * 0.1
        for _ in range(3000):
            v = F.normalize(rest.T @ (rest @ v), dim=0)
        u = rest @ v
        found.append(float(u.norm()))
        rest = rest - torch.outer(u, v)
    return found[0] / (sum(found) if relative else len(s))


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (6, 3)])
def test_it_is_the_leading_singular_value(shape, relative):
    torch.manual_seed(0)
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    assert float(leading_singular(a, b, relative=relative)) == pytest.approx(
        reference(a, b, relative), rel=1e-4
    )


def test_its_ends():
    same, apart = torch.ones(6, 8), torch.eye(6, 8)
    assert float(leading_singular(same, same)) == pytest.approx(1, abs=1e-5)
    assert float(leading_singular(apart, apart)) == pytest.approx(1 / 6, abs=1e-5)
    assert float(leading_singular(same, same, relative=False)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (7, 3)])
def test_its_gradient_is_that_of_differences_with_more_rows_than_dimensions_too(shape):
    torch.manual_seed(1)
    a, b = (t.requires_grad_() for t in torch.randn(2, *shape, dtype=torch.float64))
    assert torch.autograd.gradcheck(leading_singular, (a, b), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("shape", [(5, 9), (40, 6), (6, 6)])
def test_value_and_gradient_are_those_of_the_whole_matrix(shape, relative, pair, same):
    def whole(a, b):
        values = torch.linalg.svdvals(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T)
        return values[0] / (values.sum() if relative else len(a))

    same(lambda a, b: leading_singular(a, b, relative=relative), whole, pair(*shape))


def test_the_matrix_of_similarities_is_never_held():
    a, b = torch.randn(2, 400, 3, requires_grad=True)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.append(t.numel()) or t, lambda t: t
    ):
        leading_singular(a, b)
    assert max(held) <= 400 * 3


def test_one_row_or_none():
    for n in (0, 1):
        a, b = torch.randn(2, n, 3, requires_grad=True)
        loss = leading_singular(a, b)
        loss.backward()
        assert float(loss.detach()) == 0
    with pytest.raises(ValueError):
        leading_singular(torch.randn(3, 2), torch.randn(4, 2))
