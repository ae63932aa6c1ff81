"""The pairwise sigmoid loss of SigLIP, block by block.

Zhai et al., ICCV 2023, arXiv:2303.15343, eq. 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, check_pair, connected_zero, full_precision
from amodal.objectives.row_share import current


class _SigmoidSum(Function):
    """Sum over all (i, j) of -log sigmoid(+-(a_i.b_j + bias)), + on the diagonal.

    No element depends on another, so the gradient is computed with the block: nothing is computed
    twice, and what is saved for the backward pass has the size of the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, a_ND: Tensor, b_ND: Tensor, bias: Tensor, tile: int, with_gradient: bool
    ) -> Tensor:
        total = a_ND.new_zeros(())
        if with_gradient:
            grad_a, grad_b = torch.zeros_like(a_ND), torch.zeros_like(b_ND)
            grad_bias = torch.zeros_like(bias)
        share = current()
        tile = share.tile(tile, len(a_ND))
        for number, i in enumerate(range(0, len(a_ND), tile)):
            if not share.is_local(number):
                continue
            m = slice(i, i + tile)
            for j in range(0, len(b_ND), tile):
                n = slice(j, j + tile)
                logits = torch.addmm(bias, a_ND[m], b_ND[n].T)
                if i == j:
                    logits.diagonal().neg_()
                total -= F.logsigmoid(-logits).sum()
                if with_gradient:
                    # d -log sigmoid(-l) / d l = sigmoid(l); l was negated on the diagonal, and so
                    # is its gradient
                    gradient = logits.sigmoid_()
                    if i == j:
                        gradient.diagonal().neg_()
                    grad_a[m].addmm_(gradient, b_ND[n])
                    grad_b[n].addmm_(gradient.T, a_ND[m])
                    grad_bias += gradient.sum()
        share.all_reduce_sum(total)
        if with_gradient:
            for part in (grad_a, grad_b, grad_bias):
                share.all_reduce_sum(part)
            ctx.save_for_backward(grad_a, grad_b, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, grad_bias = ctx.saved_tensors
        return grad_a * grad, grad_b * grad, grad_bias * grad, None, None


@full_precision
def sigmoid_loss(
    a_ND: Tensor, b_ND: Tensor, *, scale: float | Tensor, bias: float | Tensor, tile: int = 1024
) -> Tensor:
    """Binary classification of all N^2 pairs, y_ij = 1 for a pair and -1 otherwise.

        L = -1/N sum_ij log sigmoid(y_ij (scale cos(a_i, b_j) + bias))

    As in the paper, the sum over N^2 pairs is divided by N. Processes that hold the same rows
    share the matrix (`row_share`). First derivatives only.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        scale, bias: numbers, or scalar tensors that get gradients; the paper starts from exp(log
            10) and -10.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `tile` is below 1.
    """
    check_pair("sigmoid_loss", a_ND, b_ND)
    if tile < 1:
        raise ValueError(
            "tile is the side of a block of the similarity matrix and must be at least 1, got "
            f"{tile}."
        )
    if len(a_ND) == 0:
        return connected_zero(a_ND, b_ND, scale, bias)
    a, b = F.normalize(a_ND, dim=1) * scale, F.normalize(b_ND, dim=1)
    bias = torch.as_tensor(bias, dtype=a.dtype, device=a.device).reshape(())
    total: Tensor = apply(_SigmoidSum, a, b, bias, tile, torch.is_grad_enabled())
    return total / len(a)
