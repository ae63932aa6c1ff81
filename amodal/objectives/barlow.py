"""Barlow Twins: the cross-correlation of two views should be the identity.

Zbontar et al., ICML 2021, arXiv:2103.03230, eq. 1.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.square_sum import cross_square_sum


@full_precision
def cross_correlation_terms(a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal and energy of the cross-correlation C (D, D) of two views.

        C = A^T B / N, the columns of A and B standardised over the batch

    Standardised as BatchNorm does it (biased variance + 1e-5). C is not formed if N < D. Its
    off-diagonal energy is the second output minus `diagonal.square().sum()`.

    Args:
        a_ND, b_ND: projections of the same N >= 2 rows.

    Returns:
        The diagonal of C (D,) and sum_ij C_ij^2 (a scalar).

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("cross_correlation_terms", a_ND, b_ND)
    a, b = (F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (a_ND, b_ND))
    return (a * b).sum(0) / len(a), cross_square_sum(a, b) / len(a) ** 2


@full_precision
def barlow_twins(a_ND: Tensor, b_ND: Tensor, *, off_diagonal: float = 5e-3) -> Tensor:
    """Redundancy reduction between two views.

        L = sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2

    First derivatives only.

    Args:
        a_ND, b_ND: projections of two views of the same N rows.
        off_diagonal: the paper's lambda.

    Returns:
        A scalar. Fewer than two rows have no correlation: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> barlow_twins(torch.randn(8, 32), torch.randn(8, 32)).shape
        torch.Size([])
    """
    check_pair("barlow_twins", a_ND, b_ND)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND)
    diagonal_D, total = cross_correlation_terms(a_ND, b_ND)
    return (1 - diagonal_D).square().sum() + off_diagonal * (total - diagonal_D.square().sum())
