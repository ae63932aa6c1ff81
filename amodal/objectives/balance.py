"""Balanced InfoNCE: the similarity matrix is scaled to uniform marginals before pairs are scored.

Liu et al., NeurIPS 2024, arXiv:2408.15065, section 4. CLIP is one step, their doubly centred loss
two.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import (
    apply,
    check_pair,
    check_positive,
    connected_zero,
    full_precision,
)
from amodal.objectives.log_sum_exp import logit_bound, pair_log_sum_exp, row_log_sum_exp

MIN_DENSE_ROWS, MAX_DENSE_ROWS = 256, 2048
"""The similarity matrix is held whole between these numbers of rows. It is then computed once, not
once a step, at a few times 16 MiB. With fewer rows the matrix is not the cost."""


@full_precision
def balanced_info_nce(
    a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor, steps: int = 2, tile: int = 1024
) -> Tensor:
    """InfoNCE after `steps` of Sinkhorn's alternation on the similarity matrix.

        Q^0 = exp(cos(a_i, b_j) / temperature);  each step divides rows, or columns, by their sums
        L = -mean_i (log Q_ii + log Q'_ii) / 2

    Q scales rows first, Q' columns first. Up to `MAX_DENSE_ROWS` rows the matrix is held whole.
    Beyond, memory is linear in N: a step needs N row factors or N column factors, and adding a
    factor to every logit of a row is one more coordinate of a product. First derivatives only.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        temperature: a number, or a scalar tensor that gets a gradient.
        steps: 0 divides by the sum of the whole matrix (jointly centred), 1 is symmetric
            InfoNCE, 2 is doubly centred.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, `temperature` is not above 0, or `steps` is negative.
    """
    check_pair("balanced_info_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}.")
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_ND, dim=1)
    positive = (a * b).sum(1).mean()
    if (
        steps > 1
        and MIN_DENSE_ROWS <= len(a) <= MAX_DENSE_ROWS
        and (shift := logit_bound(a.detach(), b.detach())) is not None
    ):
        return -positive - _dense(a, b, steps, shift) / 2
    if steps == 0:
        return row_log_sum_exp(a, b, tile=tile).logsumexp(0) - positive
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    by_rows, by_columns = _factors(a, b, -rows, steps, tile), _factors(b, a, -columns, steps, tile)
    return -positive - (by_rows + by_columns).mean() / 2


def _factors(a: Tensor, b: Tensor, rows: Tensor, steps: int, tile: int) -> Tensor:
    """(N,) log factors of row i and column i, summed, after `steps` steps, `rows` the first."""
    one = torch.ones_like(rows)
    columns = torch.zeros_like(rows)
    for step in range(1, steps):
        if step % 2:
            # [b, 1] . [a, f] = a . b + f: the factors of the rows become a coordinate
            columns = -row_log_sum_exp(
                torch.column_stack([b, one]), torch.column_stack([a, rows]), tile=tile
            )
        else:
            rows = -row_log_sum_exp(
                torch.column_stack([a, one]), torch.column_stack([b, columns]), tile=tile
            )
    return rows + columns


def _dense(a: Tensor, b: Tensor, steps: int, shift: float) -> Tensor:
    """Mean log factors of row i and column i, summed over both alternations, from the whole matrix.

    shift: a bound on every logit.
    """
    # shifted by the bound, so that no entry overflows; a factor has it back by `- shift`
    kernel: Tensor = apply(_Kernel, a, b, shift)
    one = torch.ones_like(kernel[:, 0])
    total = kernel.new_zeros(())
    # the alternation that begins with rows, and the one that begins with columns
    for first in (1, 0):
        factors = [one, one]  # of the rows and of the columns
        for step in range(steps):
            if step % 2 != first:
                factors[0] = 1 / (kernel @ factors[1])
            else:
                factors[1] = 1 / (factors[0] @ kernel)
        total = total + (factors[0].log() + factors[1].log() - shift).mean()
    return total


class _Kernel(Function):
    """exp(a_i . b_j - shift), (N, N), whose gradient is multiplied in place."""

    @staticmethod
    def forward(ctx: Any, a_ND: Tensor, b_ND: Tensor, shift: float) -> Tensor:
        kernel_NN = (a_ND @ b_ND.T).sub_(shift).exp_()
        ctx.save_for_backward(a_ND, b_ND, kernel_NN)
        return kernel_NN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NN: Tensor) -> tuple[Tensor, Tensor, None]:
        a_ND, b_ND, kernel_NN = ctx.saved_tensors
        by_logit_NN = grad_NN * kernel_NN
        return by_logit_NN @ b_ND, by_logit_NN.T @ a_ND, None
