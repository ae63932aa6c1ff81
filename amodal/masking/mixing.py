"""Mixup and CutMix of lists of tokens: with which row each row is mixed, how much, and where.

mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Windows
chosen by scores: TiMix (Jiang et al. 2024, arXiv:2312.08846). A linear map of patches commutes with
both, so mixing the tokens that such a map makes is mixing the images.

All draws are functions of the rows' seeds, so the order of rows and the number of processes do not
matter. Mixing couples rows, and therefore belongs in the `losses` of a method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import Ragged, Tokens
from amodal.masking.hashing import hash_bits, uniform

_DRAWS = 32  # of Johnk's method, of which at least half are accepted


def partners(seed_N: Tensor, draw: int = 0) -> Tensor:
    """The row that each row is mixed with.

    All rows form one random ring. So a row is its own partner only if it is alone, and each is a
    partner once.

    Args:
        seed_N: (N,) int64.
        draw: Number of the draw, for more than one with the same seeds.

    Returns:
        (N,) int64.
    """
    ring = hash_bits(seed_N, draw).argsort()
    return torch.empty_like(ring).scatter_(0, ring, ring.roll(-1))


def batch_seed(seed_N: Tensor) -> Tensor:
    """() int64: a seed of the rows together, whatever their order."""
    return hash_bits(seed_N).sum()


def beta(seed_N: Tensor, alpha: float, draw: int = 0) -> Tensor:
    """Draws of Beta(alpha, alpha), by Johnk's rejection, in logarithms.

    Args:
        seed_N: int64, of any shape.
        alpha: Above 0, at most 1.
        draw: Number of the draw.

    Returns:
        float32 in [0, 1], one for each seed.

    Raises:
        ValueError: For another alpha.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha of mixing must be above 0 and at most 1, got {alpha}")
    tries = torch.arange(_DRAWS, device=seed_N.device)
    # the middles of the cells that `uniform` counts, so that no logarithm is infinite
    x, y = (
        (uniform(seed_N[..., None], draw, tries, side).double() + 2.0**-25).log() / alpha
        for side in (0, 1)
    )
    total = torch.logaddexp(x, y)
    # x^(1/alpha) + y^(1/alpha) <= 1 accepts a try; where none is accepted, argmax takes the first
    first = (total <= 0).long().argmax(-1, keepdim=True)
    return (x - total).gather(-1, first).squeeze(-1).exp().float()


def grids(tokens: Tokens) -> Tensor:
    """The grid that the tokens of each row make in reading order.

    Columns run along the last coordinate that varies; a sequence is a grid of one row.

    Args:
        tokens: Of one source.

    Returns:
        (N, 2) int64, rows and columns, for each row that has any token.
    """
    lengths = tokens.lengths()
    lengths = lengths[lengths > 0]
    starts = lengths.cumsum(0) - lengths
    varies = (tokens.position != tokens.position[:1]).any(0).nonzero().squeeze(1)
    if len(varies) < 2:
        return torch.stack([torch.ones_like(lengths), lengths], 1)
    outer = tokens.position[:, : int(varies[-1])]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    # tokens of the first line: those that agree with the first token in all but the last coordinate
    same = (outer == outer[starts[owner]]).all(1)
    columns = torch.zeros_like(lengths).index_add(0, owner, same.long())
    whole = lengths % columns == 0
    return torch.where(
        whole[:, None],
        torch.stack([lengths // columns, columns], 1),
        torch.stack([torch.ones_like(lengths), lengths], 1),
    )


def windows(grid_N2: Tensor, other_N2: Tensor, u: Tensor, low: float, high: float) -> Tensor:
    """Sizes of windows that fit into two grids.

    Args:
        grid_N2, other_N2: (N, 2) int64, the grids.
        u: In [0, 1), from which sides follow: uniform from floor(low side) to floor(high side).
        low, high: Shares of the sides.

    Returns:
        (N, 2) int64, height and width. The only line of a sequence is 1 high. A window that is the
        whole
        of a grid is none: 0 by 0.
    """
    side = torch.minimum(grid_N2, other_N2)
    least, most = (side.double() * low).floor(), (side.double() * high).floor()
    drawn = (least + (u * (most - least + 1)).floor()).long()
    drawn = torch.where(side == 1, torch.ones_like(side), drawn)
    fits = (drawn.prod(1) > 0) & (drawn.prod(1) < torch.minimum(grid_N2.prod(1), other_N2.prod(1)))
    return drawn * fits[:, None]


def corners(grid_N2: Tensor, window_N2: Tensor, u_N2: Tensor) -> Tensor:
    """(N, 2) int64: top and left of a window placed anywhere, by `u` in [0, 1)."""
    return (u_N2 * (grid_N2 - window_N2 + 1)).floor().long()


def best_corners(score: Ragged, grid_N2: Tensor, window_N2: Tensor) -> Tensor:
    """The window with the highest sum of scores; the first of equals in reading order.

    Args:
        score: N lists of the scores (float) of a grid's tokens, in reading order.
        grid_N2: (N, 2) int64, the grids.
        window_N2: (N, 2) int64, sizes of the windows.

    Returns:
        (N, 2) int64, top and left.
    """
    n, (rows, columns) = len(score), (grid_N2.amax(0).tolist() if len(grid_N2) else (0, 0))
    y, x, owner = _cells(score.lengths, grid_N2)
    # (N, rows + 1, columns + 1) sums of all that is above and left; any window's sum is of four
    # entries. In float64, since they are differences of large sums.
    table = score.flat.new_zeros(n, rows + 1, columns + 1, dtype=torch.float64)
    table = table.index_put((owner, y + 1, x + 1), score.flat.double()).cumsum(1).cumsum(2)
    high, wide = (torch.arange(k + 1, device=table.device) for k in (rows, columns))
    bottom = (high + window_N2[:, :1]).clamp(max=rows)  # (N, rows + 1)
    right = (wide + window_N2[:, 1:]).clamp(max=columns)
    below = table.gather(1, bottom[:, :, None].expand_as(table)) - table
    sums = below.gather(2, right[:, None, :].expand_as(below)) - below
    inside = (high <= (grid_N2 - window_N2)[:, :1])[:, :, None] & (
        wide <= (grid_N2 - window_N2)[:, 1:]
    )[:, None, :]
    best = sums.masked_fill(~inside, -torch.inf).flatten(1).argmax(1) if n else grid_N2.new_zeros(0)
    return torch.stack([best // (columns + 1), best % (columns + 1)], 1)


def cutmix(
    tokens: Ragged,
    grid_N2: Tensor,
    partner_N: Tensor,
    window_N2: Tensor,
    to_N2: Tensor,
    from_N2: Tensor,
) -> Ragged:
    """Fill a window of each list's grid from its partner's grid.

    Args:
        tokens: N lists.
        grid_N2: (N, 2) int64, their grids.
        partner_N: (N,) int64.
        window_N2: (N, 2) int64, height and width.
        to_N2: (N, 2) int64, the window's corner in the list.
        from_N2: (N, 2) int64, its corner in the partner.
    """
    y, x, owner = _cells(tokens.lengths, grid_N2)
    cell = torch.stack([y, x], 1) - to_N2[owner]
    inside = ((cell >= 0) & (cell < window_N2[owner])).all(1)
    other = partner_N[owner]
    source_cell = (cell + from_N2[owner]) * inside[:, None]
    index = tokens.starts()[other] + source_cell[:, 0] * grid_N2[other, 1] + source_cell[:, 1]
    return Ragged(torch.where(inside[:, None], tokens.flat[index], tokens.flat), tokens.lengths)


def mixup(tokens: Ragged, grid_N2: Tensor, partner_N: Tensor, lam_N: Tensor) -> Ragged:
    """lam times each token plus 1 - lam times the one in the same relative place of the partner.

    Args:
        tokens: N lists.
        grid_N2: (N, 2) int64, their grids.
        partner_N: (N,) int64.
        lam_N: (N,) in [0, 1].
    """
    y, x, owner = _cells(tokens.lengths, grid_N2)
    other = partner_N[owner]
    source_cell = torch.stack([y, x], 1) * grid_N2[other] // grid_N2[owner]
    index = tokens.starts()[other] + source_cell[:, 0] * grid_N2[other, 1] + source_cell[:, 1]
    lam = lam_N.to(tokens.flat.dtype)[owner][:, None]
    return Ragged(lam * tokens.flat + (1 - lam) * tokens.flat[index], tokens.lengths)


@dataclass(frozen=True)
class Mixed:
    """Lists of mixed tokens.

    Attributes:
        tokens: N lists.
        partner: (N,) int64, the row that each is mixed with.
        lam: (N,) the share of a mixture that is its row's own.
    """

    tokens: Ragged
    partner: Tensor
    lam: Tensor


def everywhere(tokens: Ragged, grid_N2: Tensor, seed_N: Tensor, *, alpha: float) -> Mixed:
    """mixup with one draw of Beta(alpha, alpha) for the batch."""
    partner = partners(seed_N)
    lam = beta(batch_seed(seed_N), alpha).to(tokens.flat.dtype).expand(len(tokens))
    return Mixed(mixup(tokens, grid_N2, partner, lam), partner, lam)


def in_windows(
    tokens: Ragged,
    grid_N2: Tensor,
    seed_N: Tensor,
    *,
    low: float,
    high: float,
    fit: Ragged | None = None,
) -> Mixed:
    """CutMix with one size of windows for the batch.

    Args:
        tokens: N lists.
        grid_N2: (N, 2) int64, their grids.
        seed_N: (N,) int64.
        low, high: Shares of the grid's sides, between which those of windows lie.
        fit: A score of each token: the partner's window of the highest sum goes where a list's own
            sum is lowest. Without it windows lie anywhere, in the same relative place.
    """
    partner, drawn = partners(seed_N), batch_seed(seed_N)
    window = windows(grid_N2, grid_N2[partner], uniform(drawn, 0), low, high)
    if fit is None:
        u = torch.stack([uniform(seed_N, axis) for axis in (1, 2)], 1)
        to, source = corners(grid_N2, window, u), corners(grid_N2[partner], window, u)
    else:
        to = best_corners(Ragged(-fit.flat, fit.lengths), grid_N2, window)
        source = best_corners(fit[partner], grid_N2[partner], window)
    lam = 1 - window.prod(1).to(tokens.flat.dtype) / grid_N2.prod(1)
    return Mixed(cutmix(tokens, grid_N2, partner, window, to, source), partner, lam)


def _cells(lengths: Tensor, grid_N2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token its row and column in its grid, and its list."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    within = torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]
    columns = grid_N2[owner, 1]
    return within // columns, within % columns, owner
