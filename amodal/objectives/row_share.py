"""Sharding of a similarity matrix over processes that all hold the same N rows.

A loss between all rows of a batch costs N^2. Each of W processes computes every W-th band of the
matrix. The sums over rows and columns, and the gradients of size N, are then all-reduced. All
processes get the same result, as without sharding.

Sharded are `info_nce` and all that is made of `log_sum_exp` (NT-Xent, its smoothed, soft, focal,
guided and multi-view forms, MoCo's queues, SwALIP's logits), `sigmoid_loss`, and the slices of
`sigreg`. Every process computes the rest over the whole batch:

- `dino`, `vicreg`, `barlow`, `reconstruction`, `distill`, `koleo` and other losses whose cost is
  linear in the rows, or N D^2 like the linear layers of a projector. Nothing there is of the order
  of N^2 but the neighbours of `koleo`.
- `balanced_info_nce` while its matrix is held whole, `sinkhorn`, `multi_sinkhorn`, `structure`,
  `margin`, `gram_volume`, `tensor_clip` and users of `tiles.by_rows`. Each of their steps needs
  whole rows and whole columns. Their limit is the time of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core.within import within


@dataclass(frozen=True)
class RowShare:
    """The part of a matrix that this process computes.

    Attributes:
        rank: of this process.
        world_size: number of processes.
        all_reduce_sum: replaces a tensor by its sum over processes, in place.
        all_reduce_max: replaces a tensor by its elementwise maximum over processes, in place.
    """

    rank: int = 0
    world_size: int = 1
    all_reduce_sum: Callable[[Tensor], object] = lambda t: None
    all_reduce_max: Callable[[Tensor], object] = lambda t: None

    def tile(self, tile: int, rows: int) -> int:
        """Side of a tile, small enough that every process gets some.

        Args:
            tile: side without sharding.
            rows: of the matrix.
        """
        return (
            # at least two bands for each process
            tile if self.world_size == 1 else max(1, min(tile, -(-rows // (2 * self.world_size))))
        )

    def is_local(self, number: int) -> bool:
        """Whether this process computes band, or tile, `number`."""
        return number % self.world_size == self.rank

    def all_reduce_log_sum_exp(self, logs: Tensor) -> None:
        """Replace logarithms by the log-sum-exp over processes, in place."""
        if self.world_size == 1 or not logs.numel():
            return
        peak = logs.clone()
        self.all_reduce_max(peak)
        # of nothing at all, the logarithm stays what it is
        peak.clamp_(min=torch.finfo(peak.dtype).min)
        total = (logs - peak).exp_()
        self.all_reduce_sum(total)
        logs.copy_(total.log_().add_(peak))


SINGLE_PROCESS = RowShare()
"""One process, which computes everything."""

_share: ContextVar[RowShare | None] = ContextVar("row_share", default=None)


def current() -> RowShare:
    return _share.get() or SINGLE_PROCESS


@contextmanager
def row_share(share: RowShare) -> Iterator[None]:
    """Within it matrices are sharded, also in the backward pass of what was computed within it.

    All processes must compute the same.
    """
    with within(_share, share):
        yield
