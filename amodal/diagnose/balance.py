"""Balancing a table of counts to known marginals, and how much that reduces an estimate's variance.

Liu et al., NeurIPS 2024, arXiv:2408.15065, eq. 3-6 and theorem 1. Tables are (X, Y) float64: how
often x and y came together.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balance(joint_XY: Tensor, rows_X: Tensor, columns_Y: Tensor, *, steps: int) -> Tensor:
    """Iterative proportional fitting. The first step matches the rows' masses, the second the
    columns'.

    Each step is the information projection onto the tables with that marginal.

    Args:
        joint_XY: The table; counts are divided by their sum first.
        rows_X: Target masses of the rows.
        columns_Y: Target masses of the columns.
        steps: How many.

    Raises:
        ValueError: If a row or column has mass in the target and none in the table, as no scaling
            can give it any.
    """
    p = _table(joint_XY)
    for name, have, want in (("row", p.sum(1), rows_X), ("column", p.sum(0), columns_Y)):
        if have.shape != want.shape:
            raise ValueError(
                f"the table has {len(have)} {name}s and the target marginal {len(want)}."
            )
        if empty := ((have == 0) & (want > 0)).nonzero().flatten().tolist():
            raise ValueError(
                f"the {name}s {empty} have mass in the target and none in the table; "
                "take more data or merge them."
            )
    for step in range(steps):
        axis, want = (1, rows_X) if step % 2 == 0 else (0, columns_Y)
        have = p.sum(axis, keepdim=True)
        p = p * (want.double().unsqueeze(axis) / have.clamp_min(torch.finfo(torch.float64).tiny))
    return p


def variances(joint_XY: Tensor, values_XY: Tensor, *, steps: int) -> Tensor:
    """n times the variance of sum h(x, y) P(x, y) after each number of balancing steps on n
    samples.

    sigma_k^2 = Var(C_1 ... C_k h), where C_1 subtracts the mean given x, C_2 the mean given y, and
    so on.

    Args:
        joint_XY: The true table, or the balanced one in its place.
        values_XY: h.
        steps: The largest number.

    Returns:
        (steps + 1,)
    """
    p = _table(joint_XY)
    values = []
    for k in range(steps + 1):
        h = values_XY.double()
        for step in reversed(range(k)):
            axis = 1 if step % 2 == 0 else 0
            mass = p.sum(axis, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
            h = h - (p * h).sum(axis, keepdim=True) / mass
        values.append((p * h.square()).sum() - (p * h).sum().square())
    return torch.stack(values)


def dependence(joint_XY: Tensor) -> Tensor:
    """Singular values of D_X^-1/2 P D_Y^-1/2, the operator of conditional means.

    The first is 1. The second, s_2 <= 1, is how fast balancing converges (sigma_k^2 by about s_2^2
    a step). Rows and columns without mass are left out.

    Args:
        joint_XY: The table.

    Returns:
        (min(X, Y),)
    """
    p = _table(joint_XY)
    p = p[p.sum(1) > 0][:, p.sum(0) > 0]
    scale = (p.sum(1, keepdim=True) * p.sum(0, keepdim=True)).sqrt()
    values: Tensor = torch.linalg.svdvals(p / scale)
    return values


def estimate(
    counts_XY: Tensor, values_XY: Tensor, rows_X: Tensor, columns_Y: Tensor, *, steps: int = 2
) -> tuple[float, float]:
    """The mean of h under the balanced table, and its standard error.

    The error is the predicted one, with the balanced table in place of the unknown truth.

    Args:
        counts_XY: How often each pair was seen.
        values_XY: h.
        rows_X: Known masses of the rows.
        columns_Y: Known masses of the columns.
        steps: Of balancing, 0 for the plain mean.
    """
    p = balance(counts_XY, rows_X, columns_Y, steps=steps)
    fitted = balance(counts_XY, rows_X, columns_Y, steps=max(steps, 50))
    variance = variances(fitted, values_XY, steps=steps)[-1].clamp_min(0)
    return float((p * values_XY.double()).sum()), float((variance / counts_XY.sum()).sqrt())


def _table(joint_XY: Tensor) -> Tensor:
    """The table divided by its sum."""
    if joint_XY.dim() != 2 or (joint_XY < 0).any() or not joint_XY.sum() > 0:
        raise ValueError(
            "a table of masses is a matrix without negative entries and not all zero, "
            f"got {tuple(joint_XY.shape)}."
        )
    return joint_XY.double() / joint_XY.sum()
