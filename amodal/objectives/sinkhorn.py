"""Balanced soft assignment by Sinkhorn-Knopp.

Caron et al. 2020 (SwAV), arXiv:2006.09882, eq. 3-5; Cuturi 2013. Rows with rows: Ding et al. 2023,
arXiv:2301.01805, as used by Chu et al. 2024, arXiv:2306.05272.
"""

import torch
from torch import Tensor

from amodal.objectives.common import check_positive, full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores_NK: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assign rows to prototypes so that every prototype gets about N / K of the mass.

        Q = diag(u) exp(scores / epsilon) diag(v), u and v by alternation

    If scores / epsilon spread so far that exponentials could overflow or empty a prototype, it
    works on logarithms, which is slower. No gradient.

    Args:
        scores_NK: similarities of rows and prototypes (cosines in SwAV, logits in DINOv2).
        epsilon: entropy; smaller is harder.
        iterations: alternations. Rows are scaled last, so they are exact and columns approximate.

    Returns:
        (N, K) probabilities; each row sums to 1.

    Raises:
        ValueError: the scores are no matrix, or `epsilon` or `iterations` is not above 0.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    if scores_NK.dim() != 2:
        raise ValueError(f"sinkhorn needs (N, K) scores, got shape {tuple(scores_NK.shape)}.")
    if scores_NK.numel() == 0:
        return scores_NK / epsilon
    low, high = scores_NK.aminmax()
    # exp(-40) and exp(-300) are far above the smallest float32 and float64, so no row or column
    # sums to zero
    if float(high - low) / epsilon < (300 if scores_NK.dtype == torch.float64 else 40):
        kernel_NK = (scores_NK - high).div_(epsilon).exp_()
        row_N, share = kernel_NK.new_ones(len(kernel_NK)), kernel_NK.shape[0] / kernel_NK.shape[1]
        for _ in range(iterations):
            # a column's share of the mass, so that factors do not drift
            column_K = share / (row_N @ kernel_NK)
            row_N = 1 / (kernel_NK @ column_K)
        return kernel_NK.mul_(row_N[:, None]).mul_(column_K)
    log_NK = scores_NK / epsilon
    for _ in range(iterations):
        log_NK = log_NK - log_NK.logsumexp(0, keepdim=True)
        log_NK = log_NK - log_NK.logsumexp(1, keepdim=True)
    return log_NK.exp()


@full_precision
def doubly_stochastic(scores_NN: Tensor, *, epsilon: float = 0.175, iterations: int = 5) -> Tensor:
    """Doubly stochastic affinities: exp(scores / epsilon), rows and columns scaled in turn.

    The gradient treats the scale of the columns as constant.

    Args:
        scores_NN: symmetric similarities, such as |cosines|.
        epsilon: entropy; smaller is harder.
        iterations: scalings, rows first. An odd number ends with rows, which are then exact, and
            columns sum to 1 approximately.

    Returns:
        (N, N)

    Raises:
        ValueError: the matrix is not square, or `epsilon` or `iterations` is not above 0.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    if scores_NN.dim() != 2 or scores_NN.shape[0] != scores_NN.shape[1]:
        raise ValueError(
            f"doubly_stochastic needs (N, N) scores, got shape {tuple(scores_NN.shape)}."
        )
    log_NN = scores_NN / epsilon
    rows, columns = log_NN.new_zeros(len(log_NN), 1), log_NN.new_zeros(1, len(log_NN))
    for i in range(iterations):
        if i % 2 == 0:
            rows = -(log_NN + columns).logsumexp(1, keepdim=True)
        else:
            columns = -(log_NN + rows).detach().logsumexp(0, keepdim=True)
    return (log_NN + rows + columns).exp()
