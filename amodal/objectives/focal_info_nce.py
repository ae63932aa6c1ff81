"""Focal InfoNCE: less weight on pairs that are already retrieved.

Park and Han, CVPR 2023, arXiv:2304.00719, the focal image-text contrastive loss. The factor
(1 - p)^gamma is that of Lin et al. 2017, arXiv:1708.02002, eq. 4, on the softmax of InfoNCE.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import row_log_sum_exp


@full_precision
def focal_info_nce(
    a_ND: Tensor, b_MD: Tensor, *, temperature: float | Tensor, gamma: float = 2.0, tile: int = 1024
) -> Tensor:
    """InfoNCE in one direction with focal weights.

        L = mean_i -(1 - p_i)^gamma log p_i,  p_i = softmax_j(cos(a_i, b_j) / temperature)_{j=i}

    First derivatives only.

    Args:
        a_ND, b_MD: embeddings; normalised here. The partner of a_i is b_i. M >= N: rows of b after
            the first N are negatives only (a queue).
        temperature: a number, or a scalar tensor that gets a gradient.
        gamma: focusing; 0 is InfoNCE.
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Without a row or without a negative: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, `temperature` is not above 0, or `gamma` is negative.
    """
    check_positive("temperature", temperature)
    if (
        a_ND.dim() != 2
        or b_MD.dim() != 2
        or a_ND.shape[1] != b_MD.shape[1]
        or len(b_MD) < len(a_ND)
    ):
        raise ValueError(
            "focal_info_nce needs (N, D) and (M, D) matrices with M >= N, got "
            f"{tuple(a_ND.shape)} and {tuple(b_MD.shape)}."
        )
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}.")
    if not len(a_ND) or len(b_MD) < 2:
        return connected_zero(a_ND, b_MD, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_MD, dim=1)
    log_p = (a * b[: len(a)]).sum(1) - row_log_sum_exp(a, b, tile=tile)
    if not gamma:
        return -log_p.mean()
    # 1 - p without the loss of digits near p = 1, where a root would have no slope
    return -((-torch.expm1(log_p)).clamp(min=1e-12) ** gamma * log_p).mean()
