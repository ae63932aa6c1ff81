"""InfoNCE, the symmetric form of CLIP, and NT-Xent of SimCLR, in memory linear in the batch.

van den Oord et al. 2018, arXiv:1807.03748, eq. 4; Radford et al. 2021, arXiv:2103.00020, figure 3;
Chen et al. 2020, arXiv:2002.05709, eq. 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp, self_log_sum_exp


@full_precision
def info_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    symmetric: bool = True,
    tile: int = 1024,
) -> Tensor:
    """Mean over rows of -log softmax(cos(a_i, b_j) / temperature)_{j=i}: row i must find its
    partner among N.

    a_ND, b_ND:   embeddings of the same N rows, of any length (cosine is taken here).
    temperature:  a number, or a scalar tensor that gets a gradient; pass `exp(-log_scale)` to learn
                  it as CLIP does.
    symmetric:    average with the direction b -> a (CLIP); False looks from a into b only.
    tile:         side of the blocks of the similarity matrix; changes memory and speed, not the
                  result.

    With one row or none there is nothing to tell apart: 0, still connected to the inputs. First
    derivatives only. Raises ValueError for unequal shapes and for a temperature that is not above
    0.
    """
    check_pair("info_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_ND, dim=1)
    positive = (a * b).sum(1).mean()
    if not symmetric:
        return row_log_sum_exp(a, b, tile=tile).mean() - positive
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    return (rows.mean() + columns.mean()) / 2 - positive


@full_precision
def nt_xent(
    a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor = 0.5, tile: int = 1024
) -> Tensor:
    """SimCLR eq. 1: each of the 2N views must find its partner among the other 2N - 1 views.

    a_ND, b_ND:   two views of the same N rows (cosine is taken here).
    temperature:  as in `info_nce`; 0.5 is the paper's for CIFAR-10, 0.1 for ImageNet.

    Negatives also come from the same side (a with a), unlike in `info_nce`. One row or none gives a
    connected 0.
    """
    check_pair("nt_xent", a_ND, b_ND)
    check_positive("temperature", temperature)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    # Both factors of every product carry the root, so that the Gram matrix stays symmetric.
    z = F.normalize(torch.cat([a_ND, b_ND]), dim=1) / temperature**0.5
    a, b = z.chunk(2)
    return self_log_sum_exp(z, tile=tile).mean() - (a * b).sum(1).mean()
