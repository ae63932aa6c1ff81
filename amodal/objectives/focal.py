"""Cross-entropy that looks away from what is told already. Lin et al., ICCV 2017, arXiv:1708.02002,
eq. 4 (without alpha)."""

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def focal(logits_NK: Tensor, label_N: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean of -(1 - p)^gamma log p, with p the softmax's probability of the right class. label_N:
    (N,) int64; gamma 0 is cross-entropy. No row gives a connected 0. Raises ValueError for a
    negative gamma."""
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}.")
    if not len(logits_NK):
        return connected_zero(logits_NK)
    log_p = logits_NK.log_softmax(1).gather(1, label_N[:, None]).squeeze(1)
    return -(-torch.expm1(log_p)).clamp(min=0).pow(gamma).mul(log_p).mean()
