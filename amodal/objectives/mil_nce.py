"""MIL-NCE: several candidates are positive together, and it is enough that one of them fits.

Miech et al. 2020, arXiv:1912.06430, eq. 1: the sum over a row's candidates above, and below it also
all other candidates with this anchor and all other anchors with these candidates.
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
    """Mean over rows of -log( P_i / (P_i + sum_{j != i, k} s(a_i, b_jk) + sum_{j != i, k} s(a_j,
    b_ik)) ), P_i = sum_k s(a_i, b_ik), s = exp(cos / temperature).

    a_ND:        anchors (videos); b_NKD: K candidates of each (narrations nearby). Cosine is taken
                 here.
    temperature: a number, or a scalar tensor that gets a gradient.
    tile:        side of the blocks of the similarity matrix; changes memory and speed, not the
                 result.

    One row or none gives a connected 0. First derivatives only. Raises ValueError for shapes that
    do not fit and a temperature that is not above 0.
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
    own = (a[:, None] * b).sum(2).logsumexp(1)
    rows, columns = pair_log_sum_exp(a, b.flatten(0, 1), tile=tile)
    both = torch.logaddexp(rows, columns.view(b.shape[:2]).logsumexp(1))
    # the own candidates are in both sums and must count once; they are at most half of them, so the
    # difference is safe
    return (both + torch.log1p(-(own - both).exp()) - own).mean()
