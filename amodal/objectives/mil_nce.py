"""MIL-NCE: a row has several candidate positives, of which one fits.

Miech et al., CVPR 2020, arXiv:1912.06430, eq. 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp


@full_precision
def mil_nce(
    a_ND: Tensor, b_NKD: Tensor, *, temperature: float | Tensor = 0.07, tile: int = 1024
) -> Tensor:
    """InfoNCE with the sum over a row's K candidates as the positive.

        L = mean_i -log( P_i / (P_i + sum_{j != i, k} s(a_i, b_jk) + sum_{j != i, k} s(a_j, b_ik)) )
        P_i = sum_k s(a_i, b_ik),  s = exp(cos / temperature)

    First derivatives only.

    Args:
        a_ND: anchors (videos); normalised here.
        b_NKD: K candidates of each (narrations nearby); normalised here.
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    if (
        a_ND.dim() != 2
        or b_NKD.dim() != 3
        or (len(a_ND), a_ND.shape[1]) != (len(b_NKD), b_NKD.shape[2])
    ):
        raise ValueError(
            f"mil_nce needs (N, D) and (N, K, D), got {tuple(a_ND.shape)} and {tuple(b_NKD.shape)}."
        )
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_NKD, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_NKD, dim=2)
    positive = (a[:, None] * b).sum(2).logsumexp(1)
    rows, columns = pair_log_sum_exp(a, b.flatten(0, 1), tile=tile)
    both = torch.logaddexp(rows, columns.view(b.shape[:2]).logsumexp(1))
    # the own candidates are in both sums and must count once; they are at most half of them, so the
    # difference is safe
    return (both + torch.log1p(-(positive - both).exp()) - positive).mean()
