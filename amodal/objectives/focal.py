"""Focal loss: cross-entropy with less weight on rows that are classified well.

Lin et al., ICCV 2017, arXiv:1708.02002, eq. 4 (without alpha).
"""

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def focal(logits_NK: Tensor, label_N: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss of a softmax.

        L = mean_i -(1 - p_i)^gamma log p_i, p_i the probability of the label

    Args:
        logits_NK: scores of K classes.
        label_N: int64.
        gamma: focusing; 0 is cross-entropy.

    Returns:
        A scalar. Without rows: 0, connected to the input.

    Raises:
        ValueError: `gamma` is negative.
    """
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}.")
    if not len(logits_NK):
        return connected_zero(logits_NK)
    log_p = logits_NK.log_softmax(1).gather(1, label_N[:, None]).squeeze(1)
    # -expm1(log p) is 1 - p without the loss of digits near p = 1
    return -(-torch.expm1(log_p)).clamp(min=0).pow(gamma).mul(log_p).mean()
