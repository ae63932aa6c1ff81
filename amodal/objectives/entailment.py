"""Entailment between boxes: binary cross-entropy of probabilities given by their logarithm.

Vilnis et al., ACL 2018, arXiv:1805.06627, section 5.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def bce_from_log_prob(log_p: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy from log-probabilities.

        L = mean -(y log p + (1 - y) log(1 - p))

    Args:
        log_p: at most 0. Values nearer to 0 than 1e-6 count as -1e-6.
        truth: y in [0, 1], of the same shape; NaN where unknown, which does not count.

    Returns:
        A scalar. Without a known entry: 0, connected to the input.

    Raises:
        ValueError: the shapes differ.
    """
    if log_p.shape != truth.shape:
        raise ValueError(
            f"bce_from_log_prob needs two tensors of one shape, got {tuple(log_p.shape)} and "
            f"{tuple(truth.shape)}."
        )
    known = ~truth.isnan()
    if not bool(known.any()):
        return connected_zero(log_p)
    log_p, truth = log_p[known].clamp(max=-1e-6), truth[known].to(log_p.dtype)
    return -(truth * log_p + (1 - truth) * log1mexp(log_p)).mean()


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, accurate near 0 and far from it."""
    # expm1 keeps the digits above -log 2, log1p those below (Maechler 2012). Both formulas have
    # finite gradients wherever e^x is not 1 in floats, so the one that is not taken adds 0, not
    # NaN: the caller clamps at -1e-6, and at -inf expm1 is -1 with gradient 0.
    return torch.where(x > -math.log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


def log_agreement(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """(N,) log-probability that two rows agree in each of K binary concepts.

    sum_k log(a_k b_k + (1 - a_k)(1 - b_k))
    """
    return (a_NK * b_NK + (1 - a_NK) * (1 - b_NK)).clamp(min=1e-12).log().sum(1)
