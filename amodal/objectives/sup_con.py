"""Supervised contrastive loss: rows of one group attract each other.

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
    """InfoNCE with all other rows of the group, P(i), as positives.

        L = mean_i -1/|P(i)| sum_{p in P(i)} log softmax_{a != i}(cos(z_i, z_a) / temperature)_p

    The mean runs over rows that have a positive; the others are negatives only. First derivatives
    only.

    Args:
        z_ND: embeddings; normalised here.
        group_N: int64.
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Without any positive: 0, connected to the inputs.

    Raises:
        ValueError: there is not one group a row, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    if z_ND.dim() != 2 or group_N.shape != z_ND.shape[:1]:
        raise ValueError(
            f"sup_con needs (N, D) vectors and (N,) groups, got {tuple(z_ND.shape)} and "
            f"{tuple(group_N.shape)}."
        )
    group_index, group_size = group_N.unique(return_inverse=True, return_counts=True)[1:]
    partners = group_size[group_index] - 1
    paired = partners > 0
    if not bool(paired.any()):
        return connected_zero(z_ND, temperature)
    # Both factors of every product carry the root, so that the Gram matrix stays symmetric.
    z = F.normalize(z_ND, dim=1) / temperature**0.5
    group_sum = z.new_zeros(len(group_size), z.shape[1]).index_add(0, group_index, z)[group_index]
    # the mean over partners of a product is the product with their mean
    positive: Tensor = ((group_sum - z) * z).sum(1) / partners.clamp(min=1)
    return (self_log_sum_exp(z, tile=tile) - positive)[paired].mean()
