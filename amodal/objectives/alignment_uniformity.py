"""Alignment and uniformity, as a loss or as a measure.

Wang and Isola, ICML 2020, arXiv:2005.10242, section 4.1.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import self_log_sum_exp


@full_precision
def alignment(a_ND: Tensor, b_ND: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Mean distance of the two views of a row, on the unit sphere.

        L = mean_i ||a_i - b_i||^alpha

    Args:
        a_ND, b_ND: embeddings of two views of the same N rows; normalised here.
        alpha: exponent of the distance.

    Returns:
        A scalar, 0 if every pair coincides. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("alignment", a_ND, b_ND)
    if len(a_ND) == 0:
        return connected_zero(a_ND, b_ND)
    square_N = (F.normalize(a_ND, dim=1) - F.normalize(b_ND, dim=1)).square().sum(1)
    return (square_N if alpha == 2 else square_N.pow(alpha / 2)).mean()


@full_precision
def uniformity(z_ND: Tensor, t: float = 2.0, *, tile: int = 1024) -> Tensor:
    """How evenly rows cover the unit sphere: the lower, the more evenly.

        L = log mean_{i != j} exp(-t ||z_i - z_j||^2)

    Memory is linear in N. First derivatives only.

    Args:
        z_ND: embeddings; normalised here.
        t: inverse width of the Gaussian kernel.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar, 0 if all rows are one point. Fewer than two rows: 0, connected to the input.

    Raises:
        ValueError: `z_ND` is no matrix, or `t` is not above 0.
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
