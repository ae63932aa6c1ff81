"""Several vectors of one value: of the whole, and of each cell of a grid that is laid over where
its tokens are."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Column, Ragged, Tokens


def cells(bag: Tokens, grid: int) -> Tensor:
    """(T,) int64: the cell that each token lies in, of `grid` cells along every axis between the
    outermost tokens of its row."""
    index = bag.row[:, None].expand_as(bag.position)
    low, high = (
        bag.position.new_zeros(bag.size, bag.position.shape[1]).scatter_reduce(
            0, index, bag.position, way, include_self=False
        )[bag.row]
        for way in ("amin", "amax")
    )
    share = (bag.position - low) / (high - low).clamp(min=1e-12)
    cell_TP = (share * grid).long().clamp(max=grid - 1)
    return (cell_TP * grid ** torch.arange(cell_TP.shape[1], device=cell_TP.device)).sum(1)


def places(bag: Tokens, whole: Column, grid: int = 2) -> Column:
    """Ragged of vectors (D): the whole's, then the mean token of every cell that has one, in order
    of cells.

    bag: the tokens of one source after the trunk, without what pooling added to them. whole: (N,
    D), the vectors of the rows that have it. grid: cells along each axis; 1 for the whole alone. A
    picture has up to grid^2 cells, what runs in time has grid.
    """
    if grid < 1:
        raise AmodalError(f"a grid has at least one cell along each axis, not {grid}")
    if grid == 1:
        return Column(Ragged(whole.values, torch.ones_like(whole.rows)), whole.rows)
    each = grid ** bag.position.shape[1]
    used, at, count = torch.unique(
        bag.row * each + cells(bag, grid), return_inverse=True, return_counts=True
    )
    mean = bag.x.new_zeros(len(used), bag.x.shape[1]).index_add(0, at, bag.x) / count[:, None]
    lengths = torch.bincount(used // each, minlength=bag.size)[whole.rows] + 1
    flat = whole.values.new_zeros(len(whole.rows) + len(used), bag.x.shape[1])
    first = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    first[lengths.cumsum(0) - lengths] = True
    flat = flat.index_copy(0, first.nonzero().squeeze(1), whole.values)
    return Column(
        Ragged(flat.index_copy(0, (~first).nonzero().squeeze(1), mean.to(flat.dtype)), lengths),
        whole.rows,
    )


def numbers(bag: Tokens, rows: Tensor, grid: int = 2) -> Tensor:
    """(sum of lengths,) int64, of each vector that `places` gives, end to end: 0 of the whole, 1 +
    its cell of a region (cell = sum of place along axis i x grid^i). rows: those of the whole."""
    if grid == 1:
        return torch.zeros_like(rows)
    each = grid ** bag.position.shape[1]
    used = torch.unique(bag.row * each + cells(bag, grid))
    every = torch.cat([rows * (each + 1), used // each * (each + 1) + used % each + 1])
    return every.sort().values % (each + 1)
