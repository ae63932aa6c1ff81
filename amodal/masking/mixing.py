"""Which row each row of a batch is mixed with, how much, and where: mixup and CutMix as draws, and
the mixing of lists of tokens.

mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Windows
chosen by scores: TiMix (Jiang et al. 2024, arXiv:2312.08846). A linear map of patches commutes with
both, so mixing the tokens that such a map makes is mixing the pictures.

All that is drawn is a function of the rows' seeds, so it does not matter in which order or on which
process rows stand. Mixing couples rows, and therefore belongs in the `losses` of a method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import Ragged, Tokens
from amodal.masking.hashing import hash_bits, uniform

_DRAWS = 32  # of Johnk's method, of which at least half are accepted


def partners(seed_N: Tensor, draw: int = 0) -> Tensor:
    """(N,) int64: the row that each row is mixed with. All rows form one random ring, so nobody is
    its own partner, unless it is alone, and everybody is a partner once. draw: the number of the
    draw, for several from the same seeds."""
    ring = hash_bits(seed_N, draw).argsort()
    return torch.empty_like(ring).scatter_(0, ring, ring.roll(-1))


def batch_seed(seed_N: Tensor) -> Tensor:
    """() int64: a seed of the rows together, whatever their order."""
    return hash_bits(seed_N).sum()


def beta(seed_N: Tensor, alpha: float, draw: int = 0) -> Tensor:
    """float32 in [0, 1], one for each seed (of any shape): Beta(alpha, alpha) for 0 < alpha <= 1,
    by Johnk's rejection, in logarithms. Raises ValueError for another alpha."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha of mixing must be above 0 and at most 1, got {alpha}")
    tries = torch.arange(_DRAWS, device=seed_N.device)
    # the middles of the cells that `uniform` counts, so that no logarithm is infinite
    x, y = (
        (uniform(seed_N[..., None], draw, tries, side).double() + 2.0**-25).log() / alpha
        for side in (0, 1)
    )
    total = torch.logaddexp(x, y)
    first = (total <= 0).long().argmax(-1, keepdim=True)
    return (x - total).gather(-1, first).squeeze(-1).exp().float()


def grids(bag: Tokens) -> Tensor:
    """(N, 2) int64: rows and columns of the grid that the tokens of one source make in reading
    order, for each row that has any. Columns run along the last coordinate that varies; a sequence
    is a grid of one row."""
    lengths = bag.lengths()
    lengths = lengths[lengths > 0]
    starts = lengths.cumsum(0) - lengths
    varies = (bag.position != bag.position[:1]).any(0).nonzero().squeeze(1)
    if len(varies) < 2:
        return torch.stack([torch.ones_like(lengths), lengths], 1)
    outer = bag.position[:, : int(varies[-1])]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    same = (outer == outer[starts[owner]]).all(1)
    columns = torch.zeros_like(lengths).index_add(0, owner, same.long())
    whole = lengths % columns == 0
    return torch.where(
        whole[:, None],
        torch.stack([lengths // columns, columns], 1),
        torch.stack([torch.ones_like(lengths), lengths], 1),
    )


def windows(grid_N2: Tensor, other_N2: Tensor, u: Tensor, low: float, high: float) -> Tensor:
    """(N, 2) int64: height and width of windows that fit into both grids, uniform from floor(low
    side) to floor(high side) by `u` in [0, 1). The only line of a sequence is 1 high. A window that
    is the whole of a grid is none: 0 by 0."""
    side = torch.minimum(grid_N2, other_N2)
    least, most = (side.double() * low).floor(), (side.double() * high).floor()
    drawn = (least + (u * (most - least + 1)).floor()).long()
    drawn = torch.where(side == 1, torch.ones_like(side), drawn)
    fits = (drawn.prod(1) > 0) & (drawn.prod(1) < torch.minimum(grid_N2.prod(1), other_N2.prod(1)))
    return drawn * fits[:, None]


def corners(grid_N2: Tensor, window_N2: Tensor, u_N2: Tensor) -> Tensor:
    """(N, 2) int64: top and left of a window placed anywhere by `u` in [0, 1)."""
    return (u_N2 * (grid_N2 - window_N2 + 1)).floor().long()


def best_corners(score: Ragged, grid_N2: Tensor, window_N2: Tensor) -> Tensor:
    """(N, 2) int64: top and left of the window with the highest sum of scores; the first of equals
    in reading order.

    score: N lists of the scores (float) of a grid's tokens, in reading order.
    """
    n, (rows, columns) = len(score), (grid_N2.amax(0).tolist() if len(grid_N2) else (0, 0))
    y, x, owner = _cells(score.lengths, grid_N2)
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
    """Each list with a window of its grid, its corner at `to`, filled from its partner's window of
    that size at `from`."""
    y, x, owner = _cells(tokens.lengths, grid_N2)
    cell = torch.stack([y, x], 1) - to_N2[owner]
    inside = ((cell >= 0) & (cell < window_N2[owner])).all(1)
    other = partner_N[owner]
    there = (cell + from_N2[owner]) * inside[:, None]
    index = tokens.starts()[other] + there[:, 0] * grid_N2[other, 1] + there[:, 1]
    return Ragged(torch.where(inside[:, None], tokens.flat[index], tokens.flat), tokens.lengths)


def mixup(tokens: Ragged, grid_N2: Tensor, partner_N: Tensor, kept_N: Tensor) -> Ragged:
    """Each token times `kept` plus the token in the same relative place of its partner times the
    rest."""
    y, x, owner = _cells(tokens.lengths, grid_N2)
    other = partner_N[owner]
    there = torch.stack([y, x], 1) * grid_N2[other] // grid_N2[owner]
    index = tokens.starts()[other] + there[:, 0] * grid_N2[other, 1] + there[:, 1]
    kept = kept_N.to(tokens.flat.dtype)[owner][:, None]
    return Ragged(kept * tokens.flat + (1 - kept) * tokens.flat[index], tokens.lengths)


@dataclass(frozen=True)
class Mixed:
    """tokens: N lists; partner: (N,) the row that each is mixed with; kept: (N,) the share that is
    its own."""

    tokens: Ragged
    partner: Tensor
    kept: Tensor


def everywhere(tokens: Ragged, grid_N2: Tensor, seed_N: Tensor, *, alpha: float) -> Mixed:
    """mixup with one Beta(alpha, alpha) for the batch."""
    partner = partners(seed_N)
    kept = beta(batch_seed(seed_N), alpha).to(tokens.flat.dtype).expand(len(tokens))
    return Mixed(mixup(tokens, grid_N2, partner, kept), partner, kept)


def in_windows(
    tokens: Ragged,
    grid_N2: Tensor,
    seed_N: Tensor,
    *,
    low: float,
    high: float,
    fit: Ragged | None = None,
) -> Mixed:
    """CutMix with one size of windows for the batch, sides from `low` to `high` of the grid's. fit:
    a score of each token, and the partner's window of the highest sum goes where the own sum is
    lowest; without it windows lie anywhere, in the same relative place."""
    partner, drawn = partners(seed_N), batch_seed(seed_N)
    window = windows(grid_N2, grid_N2[partner], uniform(drawn, 0), low, high)
    if fit is None:
        u = torch.stack([uniform(seed_N, axis) for axis in (1, 2)], 1)
        to, source = corners(grid_N2, window, u), corners(grid_N2[partner], window, u)
    else:
        to = best_corners(Ragged(-fit.flat, fit.lengths), grid_N2, window)
        source = best_corners(fit[partner], grid_N2[partner], window)
    kept = 1 - window.prod(1).to(tokens.flat.dtype) / grid_N2.prod(1)
    return Mixed(cutmix(tokens, grid_N2, partner, window, to, source), partner, kept)


def _cells(lengths: Tensor, grid_N2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token its row and column in its grid, and its list."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    within = torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]
    columns = grid_N2[owner, 1]
    return within // columns, within % columns, owner
