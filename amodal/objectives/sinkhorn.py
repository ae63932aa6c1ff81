"""Balanced soft assignment by Sinkhorn-Knopp. Caron et al. 2020 (SwAV), arXiv:2006.09882, eq. 3-5; Cuturi 2013."""

import torch
from torch import Tensor

from amodal.objectives.common import check_positive, full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores_NK: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Probabilities (N, K): each row sums to 1, and every prototype gets about N / K of the mass.

    scores_NK:   similarity of each row to each prototype (cosines in SwAV, logits in DINOv2).
    epsilon:     entropy; smaller is harder.
    iterations:  alternations; the rows are scaled last, so they are exact and the columns approximate.

    Works on logarithms, so a small epsilon cannot overflow or empty a prototype. No gradient. Raises ValueError unless
    the scores are a matrix, epsilon is above 0 and there is at least one iteration.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    if scores_NK.dim() != 2:
        raise ValueError(f"sinkhorn needs (N, K) scores, got shape {tuple(scores_NK.shape)}.")
    log_NK = scores_NK / epsilon
    if len(log_NK) == 0:
        return log_NK
    for _ in range(iterations):
        log_NK = log_NK - log_NK.logsumexp(0, keepdim=True)
        log_NK = log_NK - log_NK.logsumexp(1, keepdim=True)
    return log_NK.exp()
