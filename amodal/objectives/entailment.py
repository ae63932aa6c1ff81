"""Does it follow? Binary cross-entropy of probabilities that are known by their logarithm (Vilnis
et al. 2018, arXiv:1805.06627, 5.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def bce_of_log(log_p: Tensor, truth: Tensor) -> Tensor:
    """Mean of -(truth log p + (1 - truth) log(1 - p)) over the entries whose truth is not NaN; none
    of them give a connected 0.

    log_p: at most 0 (nearer to 0 than 1e-6 counts as 1e-6); truth: the same shape, from 0 to 1.
    Raises ValueError for other shapes.
    """
    if log_p.shape != truth.shape:
        raise ValueError(
            f"bce_of_log needs two tensors of one shape, got {tuple(log_p.shape)} and {tuple(truth.shape)}."
        )
    known = ~truth.isnan()
    if not bool(known.any()):
        return connected_zero(log_p)
    log_p, truth = log_p[known].clamp(max=-1e-6), truth[known].to(log_p.dtype)
    return -(truth * log_p + (1 - truth) * log_one_minus_exp(log_p)).mean()


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, from both ends."""
    near = x > -math.log(2)
    return torch.where(
        near, (-torch.expm1(torch.where(near, x, -1.0))).log(), torch.log1p(-x.exp())
    )


def agreement(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """(N,) log-chance that two rows say the same of each of K concepts: sum_k log(a b + (1 - a)(1 -
    b)), of probabilities."""
    return (a_NK * b_NK + (1 - a_NK) * (1 - b_NK)).clamp(min=1e-12).log().sum(1)
