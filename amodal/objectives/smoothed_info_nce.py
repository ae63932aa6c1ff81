"""InfoNCE with label smoothing.

Szegedy et al. 2016, arXiv:1512.00567, section 7, on the symmetric loss of ALIGN (Jia et al. 2021,
arXiv:2102.05918, eq. 1-2) and of CLIPRocket (Fini et al. 2023, arXiv:2305.08675).
"""

import torch
from torch import Tensor

from amodal.objectives.common import check_pair, full_precision
from amodal.objectives.info_nce import info_nce
from amodal.objectives.soft_info_nce import SparseTargets, soft_info_nce


@full_precision
def smoothed_info_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    smoothing: float = 0.1,
    symmetric: bool = True,
) -> Tensor:
    """`info_nce` with the targets (1 - smoothing) I + smoothing / N in each direction.

    First derivatives only.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        temperature: a number, or a scalar tensor that gets a gradient.
        smoothing: share from 0 to 1.
        symmetric: average with the direction b -> a.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: as in `info_nce` and `soft_info_nce`.
    """
    check_pair("smoothed_info_nce", a_ND, b_ND)
    if len(a_ND) < 2 or smoothing == 0:
        return info_nce(a_ND, b_ND, temperature=temperature, symmetric=symmetric)
    index = torch.arange(len(a_ND), device=a_ND.device)[:, None]
    identity = SparseTargets(index, torch.ones_like(index))
    return soft_info_nce(
        a_ND, b_ND, identity, temperature=temperature, symmetric=symmetric, smoothing=smoothing
    )
