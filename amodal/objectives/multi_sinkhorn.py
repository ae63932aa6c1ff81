"""Sinkhorn assignment of each row to SEVERAL anchors, and the cost of anchor scores against it.
Swetha et al., ICCV 2023, arXiv:2308.13077, section 3.3 and algorithm 1."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision

DAMPED = 0.25
"""The factor of the scores in the slices that are not summed."""


@torch.no_grad()
@full_precision
def multi_sinkhorn(
    scores_NK: Tensor, *, share: float = 0.5, epsilon: float = 0.07, iterations: int = 20
) -> Tensor:
    """Assignments (N, K) in [0, 1]: every row's largest is 1 and its least 0, and each anchor gets
    about N / K of the mass.

    scores_NK:  cosines of rows and anchors, usually with a queue of earlier rows among them.
    share:      of the K anchors that a row is assigned to: R = floor(share K) of them, at least 1
                and at most K - 1.
    epsilon:    entropy; smaller is harder. iterations: alternations.

    The paper copies the scores into K slices, damps all but the last R, alternates over rows,
    slices and anchors, and sums the last R. Slices of one kind stay equal, so two of them, counted
    K - R and R times, are the same at 2 / K of the cost. Logarithms throughout. Raises ValueError
    unless the scores are a matrix of two or more columns, epsilon and iterations are above 0 and 0
    < share < 1.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    if scores_NK.dim() != 2 or scores_NK.shape[1] < 2 or not 0 < share < 1:
        raise ValueError(
            f"multi_sinkhorn needs (N, K) scores, K >= 2, and a share between 0 and 1, got {tuple(scores_NK.shape)} and {share}."
        )
    n, k = scores_NK.shape
    if n == 0:
        return scores_NK
    kept = max(1, int(share * k))
    factor = scores_NK.new_tensor([1.0, DAMPED])[:, None, None]
    times = scores_NK.new_tensor([kept, k - kept]).log()[:, None, None]
    log_SNK = scores_NK / epsilon * factor
    for _ in range(iterations):
        log_SNK = log_SNK - log_SNK.logsumexp(1, keepdim=True) + math.log(n / k)
        log_SNK = log_SNK - (log_SNK + times).logsumexp(0, keepdim=True)
        log_SNK = log_SNK - log_SNK.logsumexp(2, keepdim=True)
    chosen = log_SNK[0].exp()
    low, high = chosen.amin(1, keepdim=True), chosen.amax(1, keepdim=True)
    return (chosen - low) / (high - low).clamp_min(torch.finfo(chosen.dtype).tiny)


@full_precision
def anchor_cost(scores_NK: Tensor, assignment_NK: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean binary cross-entropy of the logits exp(score / temperature) against assignments in [0,
    1]; a connected 0 for no rows.

    The logits are exponentials, and so never negative, as in the authors' code. Raises ValueError
    for unequal shapes.
    """
    check_positive("temperature", temperature)
    if scores_NK.shape != assignment_NK.shape:
        raise ValueError(
            f"scores {tuple(scores_NK.shape)} and assignments {tuple(assignment_NK.shape)} differ in shape."
        )
    if scores_NK.numel() == 0:
        return connected_zero(scores_NK)
    return F.binary_cross_entropy_with_logits((scores_NK / temperature).exp(), assignment_NK)
