"""VICReg: variance, invariance and covariance regularisation.

Bardes et al., ICLR 2022, arXiv:2105.04906, eq. 1-6.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.square_sum import self_square_sum


@full_precision
def variance_term(z_ND: Tensor) -> Tensor:
    """Variance term: no dimension may shrink, eq. 1-2.

        v = mean_j max(0, 1 - sqrt(Var(z_j) + 1e-4))

    Args:
        z_ND: embeddings of N >= 2 rows.
    """
    return F.relu(1 - (z_ND.var(0) + 1e-4).sqrt()).mean()


@full_precision
def covariance_term(z_ND: Tensor) -> Tensor:
    """Covariance term: no dimension may repeat another, eq. 3-4.

        c = 1/D sum_{i != j} Cov(z)_ij^2

    No (D, D) matrix if N < D.

    Args:
        z_ND: embeddings of N >= 2 rows.
    """
    centred = z_ND - z_ND.mean(0)
    diagonal_D = centred.square().sum(0)
    off_diagonal = self_square_sum(centred) - diagonal_D.square().sum()
    return off_diagonal / ((len(z_ND) - 1) ** 2 * z_ND.shape[1])


@full_precision
def vicreg(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Tensor:
    """Variance, invariance and covariance regularisation of two views.

        L = invariance mse(a, b) + variance (v(a) + v(b)) / 2 + covariance (c(a) + c(b))

    The scaling is that of the authors' program, for which 25, 25, 1 are meant: the squared
    distance is a mean over dimensions too, and the two variance terms are averaged, where eq. 5-6
    sum. First derivatives only.

    Args:
        a_ND, b_ND: projections of two views of the same N rows, not normalised.
        invariance, variance, covariance: weights.

    Returns:
        A scalar. One row has only the invariance; without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("vicreg", a_ND, b_ND)
    if len(a_ND) == 0:
        return connected_zero(a_ND, b_ND)
    loss = invariance * F.mse_loss(a_ND, b_ND)
    if len(a_ND) < 2:
        return loss
    spread = (variance_term(a_ND) + variance_term(b_ND)) / 2
    return loss + variance * spread + covariance * (covariance_term(a_ND) + covariance_term(b_ND))
