"""Pooling into the cells of a grid that is laid over the tokens of a row: regions of a value."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Column, Ragged, Tokens


def cells(tokens: Tokens, grid: int) -> Tensor:
    """The cell that each token lies in.

    Args:
        tokens: x is not read.
        grid: Cells along each axis, between the outermost tokens of a row.

    Returns:
        (T,) int64, the sum over axes i of (place along axis i) grid^i.
    """
    index = tokens.row[:, None].expand_as(tokens.position)
    low, high = (
        tokens.position.new_zeros(tokens.size, tokens.position.shape[1]).scatter_reduce(
            0, index, tokens.position, reduction, include_self=False
        )[tokens.row]
        for reduction in ("amin", "amax")
    )
    share = (tokens.position - low) / (high - low).clamp(min=1e-12)
    # the token at the upper end lies on the border of the last cell, and belongs to it
    cell_TP = (share * grid).long().clamp(max=grid - 1)
    return (cell_TP * grid ** torch.arange(cell_TP.shape[1], device=cell_TP.device)).sum(1)


def grid_pool(tokens: Tokens, whole: Column, grid: int = 2) -> Column:
    """The vector of each value, then the mean token of each cell that has one, in order of cells.

    Args:
        tokens: Of one source after the trunk, without what pooling added; x (T, D).
        whole: (N, D), the vectors of the whole values.
        grid: Cells along each axis, so up to grid^2 in an image and grid in time; 1 for the whole
            alone.

    Returns:
        Ragged of N lists of vectors (D).

    Raises:
        AmodalError: For a grid below 1.
    """
    if grid < 1:
        raise AmodalError(f"a grid has at least one cell along each axis, not {grid}")
    if grid == 1:
        return Column(Ragged(whole.flat, torch.ones_like(whole.rows)), whole.rows)
    per_row = grid ** tokens.position.shape[1]
    # sorted, so by row and then by cell, which is the order of the lists
    used, index, count = torch.unique(
        tokens.row * per_row + cells(tokens, grid), return_inverse=True, return_counts=True
    )
    total = tokens.x.new_zeros(len(used), tokens.x.shape[1]).index_add(0, index, tokens.x)
    mean = total / count[:, None]
    # one more for the whole
    lengths = torch.bincount(used // per_row, minlength=tokens.size)[whole.rows] + 1
    flat = whole.flat.new_zeros(len(whole.rows) + len(used), tokens.x.shape[1])
    # where the whole goes: the start of each list; regions fill the rest in order
    first = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    first[lengths.cumsum(0) - lengths] = True
    flat = flat.index_copy(0, first.nonzero().squeeze(1), whole.flat)
    flat = flat.index_copy(0, (~first).nonzero().squeeze(1), mean.to(flat.dtype))
    return Column(Ragged(flat, lengths), whole.rows)


def part_numbers(tokens: Tokens, rows: Tensor, grid: int = 2) -> Tensor:
    """Which part of its value each vector of `grid_pool` is of.

    Args:
        tokens, grid: As for `grid_pool`.
        rows: (N,) int64, those of `whole`.

    Returns:
        (sum of lengths,) int64, list after list: 0 for the whole, 1 + its cell for a region.
    """
    if grid == 1:
        return torch.zeros_like(rows)
    per_row = grid ** tokens.position.shape[1]
    used = torch.unique(tokens.row * per_row + cells(tokens, grid))
    # per_row + 1 numbers for each row, so that the whole sorts before the regions of its row
    keys = torch.cat([rows * (per_row + 1), used // per_row * (per_row + 1) + used % per_row + 1])
    out: Tensor = keys.sort().values % (per_row + 1)
    return out
