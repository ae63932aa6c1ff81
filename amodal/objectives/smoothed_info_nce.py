"""InfoNCE with label smoothing: a little of each row's target goes to every row of the batch.

Szegedy et al. 2016, arXiv:1512.00567, section 7, on the symmetric loss of ALIGN (Jia et al. 2021,
arXiv:2102.05918, eq. 1-2) and of CLIPRocket (Fini et al. 2023, arXiv:2305.08675).
"""

import torch
from torch import Tensor

from amodal.objectives.common import check_pair, full_precision
from amodal.objectives.info_nce import info_nce
from amodal.objectives.soft_info_nce import Sparse, soft_info_nce


@full_precision
def smoothed_info_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    smoothing: float = 0.1,
    symmetric: bool = True,
) -> Tensor:
    """`info_nce` with the target (1 - smoothing) identity + smoothing / N in each direction, the
    mean of both if `symmetric`.

    a_ND, b_ND: embeddings of the same N rows (cosine is taken here); smoothing: share from 0 to 1.
    One row or none gives a connected 0. First derivatives only. Raises ValueError as `info_nce` and
    `soft_info_nce` do.
    """
    check_pair("smoothed_info_nce", a_ND, b_ND)
    if len(a_ND) < 2 or smoothing == 0:
        return info_nce(a_ND, b_ND, temperature=temperature, symmetric=symmetric)
    own = torch.arange(len(a_ND), device=a_ND.device)[:, None]
    identity = Sparse(own, torch.ones_like(own))
    return soft_info_nce(
        a_ND, b_ND, identity, temperature=temperature, symmetric=symmetric, smoothing=smoothing
    )
