"""log-sum-exp over the rows and columns of a product A B^T that is never held whole.

The matrix is visited in tiles; the backward pass computes each tile again. Peak memory is a few
tiles, for any N. Processes that hold the same rows share the tiles (`row_share`).

Where the largest possible logit |A_i||B_j| is small (temperatures down to about 1/30 in float32)
one shift serves every element, so one exponential an element yields the row sums and the column
sums. Beyond that the shift has to follow the data: the sums are merged as running log-sum-exps, at
two exponentials an element, and cannot overflow.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, autocast_off
from amodal.objectives.row_share import current


def logit_bound(a_MD: Tensor, b_ND: Tensor) -> float | None:
    """A bound on every logit a_i . b_j, if exp(+-2 bound) is far from the limits of the dtype.

    Returns:
        The bound, else None. None on a GPU too: the CPU would have to wait for the bound, which
        costs more than the second exponential.
    """
    if not (a_MD.numel() and b_ND.numel()) or a_MD.device.type != "cpu":
        return None
    bound = float(a_MD.norm(dim=1).max() * b_ND.norm(dim=1).max())
    return bound if bound <= (300.0 if a_MD.dtype == torch.float64 else 30.0) else None


def _exp_gradient(
    logits: Tensor,
    shift: float | None,
    rows: Tensor,
    columns: Tensor | None,
    grad_rows: Tensor,
    grad_columns: Tensor | None,
) -> Tensor:
    """dL/dlogits of one tile; overwrites `logits`. `columns` is None if only rows are asked for."""
    if shift is not None:
        # d log sum_j exp(l_ij) / d l_ij = exp(l_ij - rows_i), here as exp(l_ij - shift) exp(shift -
        # rows_i): one exponential a logit serves both directions
        weight = (grad_rows * (shift - rows).exp())[:, None]
        if columns is not None and grad_columns is not None:
            weight = weight + (grad_columns * (shift - columns).exp())[None, :]
        return logits.sub_(shift).exp_().mul_(weight)
    if columns is None or grad_columns is None:
        return logits.sub_(rows[:, None]).exp_().mul_(grad_rows[:, None])
    by_column = (logits - columns[None, :]).exp_().mul_(grad_columns[None, :])
    return logits.sub_(rows[:, None]).exp_().mul_(grad_rows[:, None]).add_(by_column)


class _Pair(Function):
    @staticmethod
    def forward(
        ctx: Any, a_MD: Tensor, b_ND: Tensor, tile: int, both: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        shift = logit_bound(a_MD, b_ND)
        rows = a_MD.new_full((len(a_MD),), -math.inf if shift is None else 0.0)
        columns = a_MD.new_full((len(b_ND),), -math.inf if shift is None else 0.0)
        share = current()
        tile = share.tile(tile, len(a_MD))
        for number, (a, row) in enumerate(zip(a_MD.split(tile), rows.split(tile))):
            if not share.is_local(number):
                continue
            for b, column in zip(b_ND.split(tile), columns.split(tile)):
                logits = a @ b.T
                if shift is None:
                    torch.logaddexp(row, logits.logsumexp(1), out=row)
                    if both:
                        torch.logaddexp(column, logits.logsumexp(0), out=column)
                else:
                    logits.sub_(shift).exp_()
                    row += logits.sum(1)
                    if both:
                        column += logits.sum(0)
        for sums in (rows, columns) if both else (rows,):
            if shift is None:
                share.all_reduce_log_sum_exp(sums)
            else:
                share.all_reduce_sum(sums)
        if shift is not None:
            rows.log_().add_(shift)
            columns.log_().add_(shift)
        ctx.tile, ctx.both, ctx.shift, ctx.share = tile, both, shift, share
        ctx.save_for_backward(a_MD, b_ND, rows, columns)
        return (rows, columns) if both else rows

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: Tensor, grad_columns: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        a_MD, b_ND, rows, columns = ctx.saved_tensors
        grad_a, grad_b = torch.zeros_like(a_MD), torch.zeros_like(b_ND)
        with autocast_off(a_MD):
            for number, i in enumerate(range(0, len(a_MD), ctx.tile)):
                if not ctx.share.is_local(number):
                    continue
                m = slice(i, i + ctx.tile)
                for j in range(0, len(b_ND), ctx.tile):
                    n = slice(j, j + ctx.tile)
                    gradient = _exp_gradient(
                        a_MD[m] @ b_ND[n].T, ctx.shift, rows[m], columns[n] if ctx.both else None,
                        grad_rows[m], None if grad_columns is None else grad_columns[n],
                    )  # fmt: skip
                    grad_a[m].addmm_(gradient, b_ND[n])
                    grad_b[n].addmm_(gradient.T, a_MD[m])
        ctx.share.all_reduce_sum(grad_a)
        ctx.share.all_reduce_sum(grad_b)
        return grad_a, grad_b, None, None


class _Self(Function):
    """Z Z^T is symmetric: only tiles on and above the diagonal are computed, in both passes."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, tile: int) -> Tensor:
        shift = logit_bound(z_ND, z_ND)
        rows = z_ND.new_full((len(z_ND),), -math.inf if shift is None else 0.0)
        share = current()
        tile = share.tile(tile, len(z_ND))
        parts, sums = z_ND.split(tile), rows.split(tile)
        # by i + j, which deals the tiles of a triangle to processes more evenly than its rows would
        for i in range(len(parts)):
            for j in range(i, len(parts)):
                if not share.is_local(i + j):
                    continue
                logits = parts[i] @ parts[j].T
                if shift is None:
                    if i == j:
                        logits.fill_diagonal_(-math.inf)
                    else:
                        torch.logaddexp(sums[j], logits.logsumexp(0), out=sums[j])
                    torch.logaddexp(sums[i], logits.logsumexp(1), out=sums[i])
                else:
                    logits.sub_(shift).exp_()
                    if i == j:
                        logits.fill_diagonal_(0)
                    else:
                        sums[j].add_(logits.sum(0))
                    sums[i].add_(logits.sum(1))
        if shift is None:
            share.all_reduce_log_sum_exp(rows)
        else:
            share.all_reduce_sum(rows)
            rows.log_().add_(shift)
        ctx.tile, ctx.shift, ctx.share = tile, shift, share
        ctx.save_for_backward(z_ND, rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor, None]:
        z_ND, rows = ctx.saved_tensors
        grad_z = torch.zeros_like(z_ND)
        z, r, g, out = (x.split(ctx.tile) for x in (z_ND, rows, grad_rows, grad_z))
        with autocast_off(z_ND):
            for i in range(len(z)):
                for j in range(i, len(z)):
                    if not ctx.share.is_local(i + j):
                        continue
                    gradient = _exp_gradient(z[i] @ z[j].T, ctx.shift, r[i], r[j], g[i], g[j])
                    if i == j:
                        gradient.fill_diagonal_(0)
                    else:
                        out[j].addmm_(gradient.T, z[i])
                    out[i].addmm_(gradient, z[j])
        ctx.share.all_reduce_sum(grad_z)
        return grad_z, None


def _check_tile(tile: int) -> None:
    if tile < 1:
        raise ValueError(
            "tile is the side of a block of the similarity matrix and must be at least 1, got "
            f"{tile}."
        )


def pair_log_sum_exp(a_MD: Tensor, b_ND: Tensor, *, tile: int = 1024) -> tuple[Tensor, Tensor]:
    """log-sum-exp over rows and columns of A B^T. First derivatives only.

    Args:
        a_MD, b_ND: the factors.
        tile: side of a block.

    Returns:
        log sum_j exp(a_i . b_j) (M,), and log sum_i exp(a_i . b_j) (N,).

    Raises:
        ValueError: `tile` is below 1.
    """
    _check_tile(tile)
    sums: tuple[Tensor, Tensor] = apply(_Pair, a_MD, b_ND, tile, True)
    return sums


def row_log_sum_exp(a_MD: Tensor, b_ND: Tensor, *, tile: int = 1024) -> Tensor:
    """(M,) log sum_j exp(a_i . b_j): rows only, for queues and one direction.

    Raises:
        ValueError: `tile` is below 1.
    """
    _check_tile(tile)
    sums: Tensor = apply(_Pair, a_MD, b_ND, tile, False)
    return sums


def self_log_sum_exp(z_ND: Tensor, *, tile: int = 1024) -> Tensor:
    """(N,) log sum_{j != i} exp(z_i . z_j), N >= 2, at half the products of the general case.

    Raises:
        ValueError: `tile` is below 1.
    """
    _check_tile(tile)
    sums: Tensor = apply(_Self, z_ND, tile)
    return sums
