"""The pairwise sigmoid loss of SigLIP, block by block. Zhai et al. 2023, arXiv:2303.15343, eq. 1."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.row_share import current


class _SigmoidSum(Function):
    """Sum over all (i, j) of -log sigmoid(+-(a_i.b_j + bias)), + on the diagonal.

    No element depends on another, so the gradient is taken while the block is at hand: nothing is
    computed twice, and what is kept for the backward pass has the size of the inputs.
    """

    @staticmethod
    def forward(ctx, a_ND, b_ND, bias, tile, with_gradient):
        total = a_ND.new_zeros(())
        if with_gradient:
            grad_a, grad_b, grad_bias = (
                torch.zeros_like(a_ND),
                torch.zeros_like(b_ND),
                torch.zeros_like(bias),
            )
        share = current()
        tile = share.tile(tile, len(a_ND))
        for number, i in enumerate(range(0, len(a_ND), tile)):
            if not share.mine(number):
                continue
            m = slice(i, i + tile)
            for j in range(0, len(b_ND), tile):
                n = slice(j, j + tile)
                logits = torch.addmm(bias, a_ND[m], b_ND[n].T)
                if i == j:
                    logits.diagonal().neg_()
                total -= F.logsigmoid(-logits).sum()
                if with_gradient:
                    gradient = logits.sigmoid_()
                    if i == j:
                        gradient.diagonal().neg_()
                    grad_a[m].addmm_(gradient, b_ND[n])
                    grad_b[n].addmm_(gradient.T, a_ND[m])
                    grad_bias += gradient.sum()
        share.add(total)
        if with_gradient:
            for part in (grad_a, grad_b, grad_bias):
                share.add(part)
            ctx.save_for_backward(grad_a, grad_b, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_a, grad_b, grad_bias = ctx.saved_tensors
        return grad_a * grad, grad_b * grad, grad_bias * grad, None, None


@full_precision
def sigmoid_loss(
    a_ND: Tensor, b_ND: Tensor, *, scale: float | Tensor, bias: float | Tensor, tile: int = 1024
) -> Tensor:
    """-1/N sum_ij log sigmoid(y_ij (scale cos(a_i, b_j) + bias)), y = 1 for a pair and -1
    otherwise.

    a_ND, b_ND:  embeddings of the same N rows (cosine is taken here).
    scale, bias: numbers, or scalar tensors that receive gradients; the paper starts from exp(log
    10) and -10.
    tile:        side of the blocks of the similarity matrix; changes memory and speed, not the
                 result.

    The sum over N^2 pairs is divided by N, as in the paper. Processes that hold the same rows share
    the matrix (`row_share`). No rows give a connected 0. First derivatives only. Raises ValueError
    for unequal shapes.
    """
    check_pair("sigmoid_loss", a_ND, b_ND)
    if tile < 1:
        raise ValueError(
            f"tile is the side of a block of the similarity matrix and must be at least 1, got {tile}."
        )
    if len(a_ND) == 0:
        return connected_zero(a_ND, b_ND, scale, bias)
    a, b = F.normalize(a_ND, dim=1) * scale, F.normalize(b_ND, dim=1)
    bias = torch.as_tensor(bias, dtype=a.dtype, device=a.device).reshape(())
    return _SigmoidSum.apply(a, b, bias, tile, torch.is_grad_enabled()) / len(a)
