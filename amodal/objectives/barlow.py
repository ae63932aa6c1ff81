"""Barlow Twins: the cross-correlation of two views should be the identity.

Zbontar et al. 2021, arXiv:2103.03230, eq. 1.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.square_sum import cross_square_sum


@full_precision
def cross_correlation_terms(a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(diagonal_D of C, sum of all C_ij^2), where C is the (D, D) cross-correlation over the N >= 2
    rows.

    Each dimension is standardised over the batch as BatchNorm does it (biased variance + 1e-5). C
    itself is not formed when N < D. Off-diagonal energy is the sum minus `diagonal.square().sum()`.
    """
    check_pair("cross_correlation_terms", a_ND, b_ND)
    a, b = (F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (a_ND, b_ND))
    return (a * b).sum(0) / len(a), cross_square_sum(a, b) / len(a) ** 2


@full_precision
def barlow_twins(a_ND: Tensor, b_ND: Tensor, *, off_diagonal: float = 5e-3) -> Tensor:
    """sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2.

    a_ND, b_ND:    projections of two views of the same N rows.
    off_diagonal:  the paper's lambda.

    A correlation over fewer than two rows does not exist: 0, still connected. First derivatives
    only. Raises ValueError for unequal shapes.
    """
    check_pair("barlow_twins", a_ND, b_ND)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND)
    diagonal_D, total = cross_correlation_terms(a_ND, b_ND)
    return (1 - diagonal_D).square().sum() + off_diagonal * (total - diagonal_D.square().sum())
