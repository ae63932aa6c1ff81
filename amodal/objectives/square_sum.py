"""Sums of squares of correlation matrices, through whichever Gram matrix is smaller.

    ||A^T B||_F^2 = trace(A A^T B B^T) = <A A^T, B B^T>

So either the D x D matrix of Barlow Twins and VICReg, or two N x N ones. With N = 256 and D = 8192
the second way does a thirtieth of the work.
"""

from typing import Any

from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, autocast_off


class _Cross(Function):
    @staticmethod
    def forward(ctx: Any, a_ND: Tensor, b_ND: Tensor) -> Tensor:
        if len(a_ND) < a_ND.shape[1]:
            gram_a, gram_b = a_ND @ a_ND.T, b_ND @ b_ND.T
            ctx.save_for_backward(a_ND, b_ND, gram_a, gram_b)
            return (gram_a * gram_b).sum()
        product = a_ND.T @ b_ND
        ctx.save_for_backward(a_ND, b_ND, product)
        return product.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a_ND, b_ND, *saved = ctx.saved_tensors
        with autocast_off(a_ND):
            if len(saved) == 2:
                # d ||A^T B||^2 / dA = 2 B B^T A, with B B^T at hand; below 2 B (A^T B)^T
                grad_a, grad_b = saved[1] @ a_ND, saved[0] @ b_ND
            else:
                grad_a, grad_b = b_ND @ saved[0].T, a_ND @ saved[0]
        return grad_a.mul_(2 * grad), grad_b.mul_(2 * grad)


class _Self(Function):
    @staticmethod
    def forward(ctx: Any, a_ND: Tensor) -> Tensor:
        gram = a_ND @ a_ND.T if len(a_ND) < a_ND.shape[1] else a_ND.T @ a_ND
        ctx.save_for_backward(a_ND, gram)
        return gram.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        a_ND, gram = ctx.saved_tensors
        with autocast_off(a_ND):
            product = gram @ a_ND if len(a_ND) < a_ND.shape[1] else a_ND @ gram
        grad_a: Tensor = product.mul_(4 * grad)
        return grad_a


def cross_square_sum(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """sum_ij (A^T B)_ij^2, a scalar, with O(min(N, D)^2) memory. First derivatives only."""
    total: Tensor = apply(_Cross, a_ND, b_ND)
    return total


def self_square_sum(a_ND: Tensor) -> Tensor:
    """sum_ij (A^T A)_ij^2, a scalar, with O(min(N, D)^2) memory. First derivatives only."""
    total: Tensor = apply(_Self, a_ND)
    return total
