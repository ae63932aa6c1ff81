"""Supervised contrast: rows of one group are drawn together against all other rows.

Khosla et al., NeurIPS 2020, arXiv:2004.11362, eq. 2 (L_out).
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import self_log_sum_exp


@full_precision
def sup_con(
    z_ND: Tensor, group_N: Tensor, *, temperature: float | Tensor = 0.1, tile: int = 1024
) -> Tensor:
    """Mean over the rows i that have a partner of -1/|P(i)| sum_{p in P(i)} log softmax(cos(z_i,
    z_a) / temperature over a != i)_p.

    z_ND:     embeddings (cosine is taken here); group_N: (N,) int64; P(i) are the other rows of i's
              group.
    tile:     side of the blocks of the similarity matrix; changes memory and speed, not the result.

    Rows without a partner are negatives only. No partners at all give a connected 0. First
    derivatives only. Raises ValueError unless there is one group for each row, and for a
    temperature that is not above 0.
    """
    check_positive("temperature", temperature)
    if z_ND.dim() != 2 or group_N.shape != z_ND.shape[:1]:
        raise ValueError(
            f"sup_con needs (N, D) vectors and (N,) groups, got {tuple(z_ND.shape)} and {tuple(group_N.shape)}."
        )
    number, size = group_N.unique(return_inverse=True, return_counts=True)[1:]
    partners = size[number] - 1
    paired = partners > 0
    if not bool(paired.any()):
        return connected_zero(z_ND, temperature)
    # Both factors of every product carry the root, so that the Gram matrix stays symmetric.
    z = F.normalize(z_ND, dim=1) / temperature**0.5
    total = z.new_zeros(len(size), z.shape[1]).index_add(0, number, z)[number]
    near = ((total - z) * z).sum(1) / partners.clamp(
        min=1
    )  # the mean over partners of a product is the product with their mean
    return (self_log_sum_exp(z, tile=tile) - near)[paired].mean()
