"""Kernel ridge regression with a Gaussian kernel.

Its penalty is chosen by exact leave-one-out errors from one eigendecomposition (Hastie et al., The
Elements of Statistical Learning, 5.8 and eq. 7.64). Cubic in the number of records: for a few
thousand.

Ours: scikit-learn's `KernelRidge` gives the same predictions to 1e-8 (a test compares them), but no
leave-one-out errors, so that each penalty would take a fit for each record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = tuple(10.0**k for k in range(-4, 4))


@dataclass(frozen=True)
class Gaussian:
    """exp(-the sum over parts of weight * |a - b|^2 / width^2). A part is a range of columns, such
    as one source.

    Args:
        parts: (first column, last + 1, width, weight) each.
    """

    parts: tuple[tuple[int, int, float, float], ...]

    @staticmethod
    def of(*values_ND: Tensor, weights: Sequence[float] = ()) -> Gaussian:
        """A kernel whose widths are median distances between different rows, of at most 500 rows.

        Args:
            values_ND: The vectors of each part.
            weights: Of the parts, 1 each unless set.
        """
        parts, start = [], 0
        for x, weight in zip(values_ND, weights or [1.0] * len(values_ND)):
            some = x[:: -(-len(x) // 500)].double()
            apart = torch.pdist(some)
            width = float(apart[apart > 0].median()) if (apart > 0).any() else 1.0
            parts.append((start, start + x.shape[1], width, float(weight)))
            start += x.shape[1]
        return Gaussian(tuple(parts))

    def __call__(self, a_ND: Tensor, b_MD: Tensor) -> Tensor:
        """(N, M) float64."""
        total = a_ND.new_zeros(len(a_ND), len(b_MD), dtype=torch.float64)
        for start, stop, width, weight in self.parts:
            if weight:
                a, b = a_ND[:, start:stop].double(), b_MD[:, start:stop].double()
                total += weight * (torch.cdist(a, b) / width) ** 2
        return (-total).exp()


def kernel_ridge(
    x_ND: Tensor,
    y_NK: Tensor,
    kernel: Callable[[Tensor, Tensor], Tensor],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Callable[[Tensor], Tensor], float]:
    """Fit kernel ridge regression.

    Args:
        x_ND: Inputs.
        y_NK: Targets. A constant is free of the penalty.
        kernel: (N, D), (M, D) -> (N, M).
        penalties: To choose from, in units of the kernel at distance 0.

    Returns:
        The predictor (M, D) -> (M, K) float64; its mean squared leave-one-out error, summed over K.

    Raises:
        ValueError: Unless there are two rows or more, as many of x as of y.
    """
    if len(x_ND) != len(y_NK) or len(x_ND) < 2:
        raise ValueError(
            f"kernel_ridge needs two rows or more, as many x as y, got {len(x_ND)} and {len(y_NK)}."
        )
    middle, k = y_NK.double().mean(0), kernel(x_ND, x_ND)
    residual = y_NK.double() - middle
    # centred, so that the constant is free and has no penalty
    values, vectors = torch.linalg.eigh(k - k.mean(0) - k.mean(1, keepdim=True) + k.mean())
    values, inner = values.clamp_min(0), vectors.T @ residual
    least, weights = math.nan, residual
    for number, penalty in enumerate(penalties):
        # the diagonal of the hat matrix; the constant's share of it is 1 / N
        shrink = values / (values + penalty)
        leverage = vectors.square() @ shrink + 1 / len(x_ND)
        fitted = vectors @ (shrink[:, None] * inner)
        # each record's error in the fit without it (eq. 7.64)
        errors = (residual - fitted) / (1 - leverage).clamp_min(1e-9)[:, None]
        error = float(errors.square().sum(1).mean())
        if not number or error < least:
            least, weights = error, vectors @ (inner / (values + penalty)[:, None])
    offset = middle - (k @ weights).mean(0)
    return (lambda new: kernel(new, x_ND) @ weights + offset), least
