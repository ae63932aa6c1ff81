import pytest
import torch


@pytest.fixture
def pair():
    """Two (N, D) float64 matrices that want gradients; the same ones for the same arguments."""

    def make(rows, width, seed=0, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        return [
            (
                torch.randn(rows, width, dtype=torch.float64, generator=generator) * scale
            ).requires_grad_()
            for _ in range(2)
        ]

    return make


@pytest.fixture
def same():
    """Asserts that two functions agree in value and in the gradient to every tensor given."""

    def check(ours, reference, tensors, rtol=1e-9, atol=1e-11):
        mine, theirs = ours(*tensors), reference(*tensors)
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, check_dtype=False)
        gradients = [
            torch.autograd.grad(loss, tensors, allow_unused=True) for loss in (mine, theirs)
        ]
        for tensor, a, b in zip(tensors, *gradients):
            a, b = (torch.zeros_like(tensor) if g is None else g for g in (a, b))
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)

    return check
