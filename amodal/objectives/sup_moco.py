"""Supervised contrast against keys that a slow encoder made, those of earlier rows among them.

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
    """Mean over queries i of -1/|P(i)| sum_{p in P(i)} log softmax(cos(q_i, k_j) / temperature over
    all keys j)_p.

    q_ND, keys_MD: vectors (cosine is taken here); the first N keys are those of the queries' own
    rows, in their order, M >= N. group_M: int64, of the keys, -1 where it is not known; P(i) are
    key i and the other keys of its group. Without groups this is MoCo's loss. tile: side of the
    blocks of the similarity matrix; changes memory and speed, not the result.

    No query gives a connected 0. First derivatives only. Raises ValueError for shapes that do not
    fit and for a temperature that is not above 0.
    """
    check_positive("temperature", temperature)
    n, m = len(q_ND), len(keys_MD)
    if q_ND.shape[1:] != keys_MD.shape[1:] or m < n or group_M.shape != (m,):
        raise ValueError(
            f"sup_moco needs (N, D) queries, (M, D) keys with M >= N and a group of each key, got {tuple(q_ND.shape)}, "
            f"{tuple(keys_MD.shape)} and {tuple(group_M.shape)}."
        )
    if not n:
        return connected_zero(q_ND, keys_MD, temperature)
    q, k = F.normalize(q_ND, dim=1) / temperature, F.normalize(keys_MD, dim=1)
    number, size = group_M.unique(return_inverse=True, return_counts=True)[1:]
    # the mean over partners of a product is the product with their mean; the own key is one of
    # them, and the only one of the unknown
    total = k.new_zeros(len(size), k.shape[1]).index_add(0, number, k) / size[:, None]
    partners = torch.where(group_M[:n, None] < 0, k[:n], total[number[:n]])
    return (row_log_sum_exp(q, k, tile=tile) - (q * partners).sum(1)).mean()
