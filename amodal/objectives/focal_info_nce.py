"""InfoNCE that looks away from pairs that are already told apart.

Park and Han, CVPR 2023, arXiv:2304.00719, the focal image-text contrastive loss: the factor (1 -
p)^gamma of Lin et al. 2017, arXiv:1708.02002, eq. 4, on the softmax of InfoNCE.
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
    """Mean over rows of -(1 - p_i)^gamma log p_i with p_i = softmax_j(cos(a_i, b_j) /
    temperature)_{j=i}; one direction.

    a_ND, b_MD:   vectors (cosine is taken here). The partner of a_i is b_i; M >= N, columns after
                  the first N are strangers alone (a
                  queue).
    temperature:  a number, or a scalar tensor that gets a gradient.
    gamma:        how fast a pair that is found with probability p loses its say; 0 is InfoNCE.
    tile:         side of the blocks of the similarity matrix; changes memory and speed, not the
                  result.

    Without a row, or a stranger, 0, connected to the inputs. First derivatives only. Raises
    ValueError for shapes that do not fit, a temperature that is not above 0 and a negative gamma.
    """
    check_positive("temperature", temperature)
    if (
        a_ND.dim() != 2
        or b_MD.dim() != 2
        or a_ND.shape[1] != b_MD.shape[1]
        or len(b_MD) < len(a_ND)
    ):
        raise ValueError(
            f"focal_info_nce needs (N, D) and (M, D) matrices with M >= N, got {tuple(a_ND.shape)} and {tuple(b_MD.shape)}."
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
