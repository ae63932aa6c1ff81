"""Balanced InfoNCE: the similarity matrix is scaled to uniform marginals for k steps before pairs
are scored. Liu et al., NeurIPS 2024, arXiv:2408.15065, section 4 (CLIP is k = 1, their doubly
centred loss k = 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import logit_bound, pair_log_sum_exp, row_log_sum_exp

WHOLE_FROM, WHOLE_TO = 256, 2048
"""Rows from which and up to which the matrix of similarities is held whole: it is computed once
then, and not once a step, which is quicker, and takes at most a few times 16 MiB. With fewer rows
the matrix is not what costs."""


@full_precision
def balanced_info_nce(
    a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor, steps: int = 2, tile: int = 1024
) -> Tensor:
    """-mean_i of log Q_ii, averaged over the Q whose first step scales rows and the one whose first
    step scales columns.

    Q starts from exp(cos(a_i, b_j) / temperature); each step of Sinkhorn's alternation divides
    rows, or columns, by their sums.

    a_ND, b_ND:   embeddings of the same N rows, of any length (cosine is taken here).
    temperature:  a number, or a scalar tensor that gets a gradient.
    steps:        0 divides by the sum of the whole matrix (jointly centred), 1 is symmetric
                  InfoNCE, 2 is doubly centred.
    tile:         side of the blocks of the similarity matrix; changes memory and speed, not the
                  result.

    Up to `WHOLE_TO` rows the matrix is held whole. Beyond, memory is linear in N: what the
    alternation needs of a step are N row factors or N column factors, and adding a factor to every
    logit of a row is one more coordinate of a product. One row or none gives a connected 0. First
    derivatives only. Raises ValueError for unequal shapes, a temperature that is not above 0 and
    negative steps.
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
        and WHOLE_FROM <= len(a) <= WHOLE_TO
        and (shift := logit_bound(a.detach(), b.detach())) is not None
    ):
        return -positive - _whole(a, b, steps, shift) / 2
    if steps == 0:
        return row_log_sum_exp(a, b, tile=tile).logsumexp(0) - positive
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    by_rows, by_columns = _factors(a, b, -rows, steps, tile), _factors(b, a, -columns, steps, tile)
    return -positive - (by_rows + by_columns).mean() / 2


def _factors(a: Tensor, b: Tensor, rows: Tensor, steps: int, tile: int) -> Tensor:
    """The log factors of row i and column i added up, (N,), after `steps` steps of which the first
    gave `rows`."""
    one = torch.ones_like(rows)
    columns = torch.zeros_like(rows)
    for step in range(1, steps):
        if step % 2:
            columns = -row_log_sum_exp(
                torch.column_stack([b, one]), torch.column_stack([a, rows]), tile=tile
            )
        else:
            rows = -row_log_sum_exp(
                torch.column_stack([a, one]), torch.column_stack([b, columns]), tile=tile
            )
    return rows + columns


def _whole(a: Tensor, b: Tensor, steps: int, shift: float) -> Tensor:
    """The mean over i of the log factors of row i and column i, added up over the two alternations.
    shift: a bound on every logit."""
    kernel = _Kernel.apply(a, b, shift)
    one = torch.ones_like(kernel[:, 0])
    total = kernel.new_zeros(())
    for first in (
        1,
        0,
    ):  # the alternation that begins with rows, and the one that begins with columns
        factors = [one, one]  # of the rows and of the columns
        for step in range(steps):
            if step % 2 != first:
                factors[0] = 1 / (kernel @ factors[1])
            else:
                factors[1] = 1 / (factors[0] @ kernel)
        total = total + (factors[0].log() + factors[1].log() - shift).mean()
    return total


class _Kernel(Function):
    """exp(a_i . b_j - shift), (N, N): its gradient is multiplied in place."""

    @staticmethod
    def forward(ctx, a_ND: Tensor, b_ND: Tensor, shift: float) -> Tensor:
        kernel_NN = (a_ND @ b_ND.T).sub_(shift).exp_()
        ctx.save_for_backward(a_ND, b_ND, kernel_NN)
        return kernel_NN

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NN: Tensor) -> tuple[Tensor, Tensor, None]:
        a_ND, b_ND, kernel_NN = ctx.saved_tensors
        by_logit_NN = grad_NN * kernel_NN
        return by_logit_NN @ b_ND, by_logit_NN.T @ a_ND, None
