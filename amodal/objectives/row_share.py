"""Which part of a similarity matrix a process computes, where every process holds the rows of all.

A loss between all rows of a batch costs N^2. With W processes that hold the same N rows, each takes
every W-th band of the matrix; the sums over rows and columns, and the gradients, which are of size
N, are then added up. All processes get the same result, as before.

So shared are `info_nce` and all that is made of `log_sum_exp` (NT-Xent, its smoothed, soft, focal,
guided and multi-view forms, MoCo's queues, SwALIP's logits), and `sigmoid_loss`. The rest is
computed by every process over the whole batch:
- `dino`, `vicreg`, `barlow`, `reconstruction`, `distill`, `koleo` and other losses whose cost is
linear in the rows, or N D^2 like the
  linear layers of a projector: there is nothing of the order of N^2 to share but `koleo`'s
  neighbours;
- `balanced_info_nce` while its matrix is held whole, `sinkhorn`, `multi_sinkhorn`, `structure`,
`margin`, `gram_volume`, `tensor_clip` and
  what goes by `tiles.by_rows`: each step of theirs needs whole rows and whole columns. Their limit
  is the time of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowShare:
    """rank, world: of this process. add, largest: put a tensor in place of which every process has
    its own, in one that all have: the sum, and the largest of each entry."""

    rank: int = 0
    world: int = 1
    add: Callable[[Tensor], object] = lambda t: None
    largest: Callable[[Tensor], object] = lambda t: None

    def tile(self, tile: int, rows: int) -> int:
        """The side of a tile, small enough that every process has some."""
        return tile if self.world == 1 else max(1, min(tile, -(-rows // (2 * self.world))))

    def mine(self, number: int) -> bool:
        """Whether this process computes the band, or the tile, of this number."""
        return number % self.world == self.rank

    def merge_logs(self, logs: Tensor) -> None:
        """In place: the logarithm of the sum of what all processes have the logarithms of."""
        if self.world == 1 or not logs.numel():
            return
        peak = logs.clone()
        self.largest(peak)
        peak.clamp_(
            min=torch.finfo(peak.dtype).min
        )  # of nothing at all, the logarithm stays what it is
        total = (logs - peak).exp_()
        self.add(total)
        logs.copy_(total.log_().add_(peak))


ALONE = RowShare()
"""One process, which computes all."""

_share: ContextVar[RowShare | None] = ContextVar("row_share", default=None)


def current() -> RowShare:
    return _share.get() or ALONE


@contextmanager
def row_share(share: RowShare) -> Iterator[None]:
    """Within it, and in the backward pass of what is computed within it, matrices are shared. All
    processes must compute the same."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)
