"""The Chamfer distance between sets of points.

Fan, Su and Guibas, CVPR 2017, arXiv:1612.00603, section 4.1; with squared distances and means, as
in Point-MAE (Pang et al., ECCV 2022, arXiv:2203.06604, equation 4).
"""

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def chamfer(prediction_TKP: Tensor, target_TLP: Tensor) -> Tensor:
    """How far two sets of points are from each other, whatever the order of their points.

        L = mean_k min_l |p_k - q_l|^2 + mean_l min_k |p_k - q_l|^2

    Args:
        prediction_TKP: T sets of K points of P coordinates.
        target_TLP: T sets of up to L points; a point with NaN does not exist.

    Returns:
        (T,), 0 for a target without a point.

    Raises:
        ValueError: the number of sets or of coordinates differs.
    """
    a, b = prediction_TKP, target_TLP
    if a.dim() != 3 or b.dim() != 3 or (len(a), a.shape[2]) != (len(b), b.shape[2]):
        raise ValueError(
            f"chamfer: prediction {tuple(a.shape)} and target {tuple(b.shape)} must be (T, K, P) "
            "and (T, L, P)."
        )
    present_TL = ~b.isnan().any(2)
    count_T = present_TL.sum(1)
    b = torch.where(present_TL.unsqueeze(2), b, 0.0)
    distance_TKL = (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(3)
    to_target_TK = distance_TKL.masked_fill(~present_TL.unsqueeze(1), torch.inf).amin(2)
    # without any point the minimum is infinite
    forward_T = to_target_TK.where(count_T.unsqueeze(1) > 0, a.new_zeros(())).mean(1)
    backward_TL = distance_TKL.amin(1).where(present_TL, a.new_zeros(()))
    return forward_T + backward_TL.sum(1) / count_T.clamp(min=1)
