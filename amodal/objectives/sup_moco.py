"""Supervised contrast against keys of a momentum encoder, with a queue of earlier ones.

Ma et al., CVPR 2023 workshops, arXiv:2304.06370, section 3.3 (SuMoCo): supervised contrast (Khosla
et al., arXiv:2004.11362, eq. 2) with the queue of MoCo (He et al., arXiv:1911.05722).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import row_log_sum_exp


@full_precision
def sup_moco(
    q_ND: Tensor,
    keys_MD: Tensor,
    group_M: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    tile: int = 1024,
) -> Tensor:
    """InfoNCE of queries over keys, P(i) the positives: key i and the other keys of its group.

        L = mean_i -1/|P(i)| sum_{p in P(i)} log softmax_j(cos(q_i, k_j) / temperature)_p

    Without groups this is MoCo's loss. First derivatives only.

    Args:
        q_ND: queries; normalised here.
        keys_MD: keys; normalised here. The first N are those of the queries' rows, M >= N.
        group_M: int64, of the keys, -1 where unknown.
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Without queries: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    n, m = len(q_ND), len(keys_MD)
    if q_ND.shape[1:] != keys_MD.shape[1:] or m < n or group_M.shape != (m,):
        raise ValueError(
            "sup_moco needs (N, D) queries, (M, D) keys with M >= N and a group of each key, got "
            f"{tuple(q_ND.shape)}, "
            f"{tuple(keys_MD.shape)} and {tuple(group_M.shape)}."
        )
    if not n:
        return connected_zero(q_ND, keys_MD, temperature)
    q, k = F.normalize(q_ND, dim=1) / temperature, F.normalize(keys_MD, dim=1)
    group_index, group_size = group_M.unique(return_inverse=True, return_counts=True)[1:]
    # the mean over partners of a product is the product with their mean; the own key is one of
    # them, and the only one of the unknown
    group_mean = (
        k.new_zeros(len(group_size), k.shape[1]).index_add(0, group_index, k) / group_size[:, None]
    )
    positives = torch.where(group_M[:n, None] < 0, k[:n], group_mean[group_index[:n]])
    return (row_log_sum_exp(q, k, tile=tile) - (q * positives).sum(1)).mean()
