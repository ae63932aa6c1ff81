"""Alignment and uniformity, as a loss or as a measure. Wang & Isola 2020, arXiv:2005.10242, section
4.1."""

import math

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import self_log_sum_exp


@full_precision
def alignment(a_ND: Tensor, b_ND: Tensor, *, alpha: float = 2.0) -> Tensor:
    """mean_i ||a_i - b_i||^alpha on the unit sphere (rows are normalised here); 0 is perfect.

    No rows give a connected 0. Raises ValueError for unequal shapes.
    """
    check_pair("alignment", a_ND, b_ND)
    if len(a_ND) == 0:
        return connected_zero(a_ND, b_ND)
    square_N = (F.normalize(a_ND, dim=1) - F.normalize(b_ND, dim=1)).square().sum(1)
    return (square_N if alpha == 2 else square_N.pow(alpha / 2)).mean()


@full_precision
def uniformity(z_ND: Tensor, t: float = 2.0, *, tile: int = 1024) -> Tensor:
    """log of the mean over pairs i != j of exp(-t ||z_i - z_j||^2) on the unit sphere (rows are
    normalised here).

    Lower is more evenly spread; 0 is a single point. Memory is linear in N. First derivatives only.
    Fewer than two rows give a connected 0. Raises ValueError unless z is a matrix and t is above 0.
    """
    check_positive("t", t)
    if z_ND.dim() != 2:
        raise ValueError(f"uniformity needs an (N, D) matrix, got shape {tuple(z_ND.shape)}.")
    rows = len(z_ND)
    if rows < 2:
        return connected_zero(z_ND)
    # ||x - y||^2 = 2 - 2 x.y on the sphere, so the kernel is an exponential of an inner product.
    z = F.normalize(z_ND, dim=1) * math.sqrt(2 * t)
    return self_log_sum_exp(z, tile=tile).logsumexp(0) - 2 * t - math.log(rows * (rows - 1))
