"""Multi-SK: Sinkhorn assignment of each row to more than one anchor, and its loss.

Swetha et al., ICCV 2023, arXiv:2308.13077, section 3.3 and algorithm 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision

DAMPING = 0.25
"""Factor of the scores in the slices that are not summed."""


@torch.no_grad()
@full_precision
def multi_sinkhorn(
    scores_NK: Tensor, *, share: float = 0.5, epsilon: float = 0.07, iterations: int = 20
) -> Tensor:
    """Assign each row to R of K anchors, every anchor getting about N / K of the mass.

    The paper copies the scores into K slices, damps all but the last R, alternates over rows,
    slices and anchors, and sums the last R. Slices of one kind stay equal. So two of them, with
    counts K - R and R, give the same at 2 / K of the cost. In logarithms throughout, no gradient.

    Args:
        scores_NK: cosines of rows and anchors, usually with a queue of earlier rows.
        share: R = floor(share K), at least 1 and at most K - 1.
        epsilon: entropy; smaller is harder.
        iterations: of Sinkhorn's alternation.

    Returns:
        (N, K) in [0, 1]: the largest of a row is 1, the smallest 0.

    Raises:
        ValueError: not a matrix of two or more columns, `epsilon` or `iterations` not above 0, or
            `share` not between 0 and 1.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    if scores_NK.dim() != 2 or scores_NK.shape[1] < 2 or not 0 < share < 1:
        raise ValueError(
            "multi_sinkhorn needs (N, K) scores, K >= 2, and a share between 0 and 1, got "
            f"{tuple(scores_NK.shape)} and {share}."
        )
    n, k = scores_NK.shape
    if n == 0:
        return scores_NK
    assigned = max(1, int(share * k))
    factor = scores_NK.new_tensor([1.0, DAMPING])[:, None, None]
    log_counts = scores_NK.new_tensor([assigned, k - assigned]).log()[:, None, None]
    # S = 2 kinds of slices: the R that are summed, and the K - R damped ones
    log_SNK = scores_NK / epsilon * factor
    for _ in range(iterations):
        # over rows, then slices (each kind as often as it occurs), then anchors
        log_SNK = log_SNK - log_SNK.logsumexp(1, keepdim=True) + math.log(n / k)
        log_SNK = log_SNK - (log_SNK + log_counts).logsumexp(0, keepdim=True)
        log_SNK = log_SNK - log_SNK.logsumexp(2, keepdim=True)
    assignment = log_SNK[0].exp()
    low, high = assignment.amin(1, keepdim=True), assignment.amax(1, keepdim=True)
    return (assignment - low) / (high - low).clamp_min(torch.finfo(assignment.dtype).tiny)


@full_precision
def anchor_cost(scores_NK: Tensor, assignment_NK: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean binary cross-entropy of the logits exp(score / temperature).

    The logits are exponentials, so never negative, as in the authors' code.

    Args:
        scores_NK: cosines of rows and anchors.
        assignment_NK: targets in [0, 1].
        temperature: above 0.

    Returns:
        A scalar. Without rows: 0, connected to the scores.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    if scores_NK.shape != assignment_NK.shape:
        raise ValueError(
            f"scores {tuple(scores_NK.shape)} and assignments {tuple(assignment_NK.shape)} differ "
            "in shape."
        )
    if scores_NK.numel() == 0:
        return connected_zero(scores_NK)
    return F.binary_cross_entropy_with_logits((scores_NK / temperature).exp(), assignment_NK)
