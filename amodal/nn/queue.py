"""Queues of vectors of earlier rows, for losses that want more negatives than a batch holds.

He et al. 2020, MoCo, arXiv:1911.05722, 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Queues(nn.Module):
    """First-in-first-out queues of vectors, one for each name.

    Push in `Method.on_step_end` and nowhere else: it must happen once a step, whatever the number
    of micro-batches.

    Args:
        names: Of the queues.
        length: Vectors that a queue holds at most.
        width: D.
    """

    count: Tensor
    """(queues,) int64: vectors that were pushed into each so far."""

    def __init__(self, names: Sequence[str], length: int, width: int):
        super().__init__()
        self.names = list(names)
        for name in self.names:
            self.register_buffer(f"queue_{name}", torch.zeros(length, width))
        self.register_buffer("count", torch.zeros(len(self.names), dtype=torch.int64))

    def earlier(self, name: str) -> Tensor:
        """(M, D), the oldest first; M grows from 0 to the length."""
        queue = self.get_buffer(f"queue_{name}")
        # filled from the end, so the zeros of a queue that is not full yet stand first
        return queue[max(0, len(queue) - int(self.count[self.names.index(name)])) :]

    @torch.no_grad()
    def push(self, new: Mapping[str, Tensor]) -> None:
        """Add vectors.

        Args:
            new: Name -> (n, D). If there are more than the length, the last ones stay.
        """
        for name, rows in new.items():
            queue = self.get_buffer(f"queue_{name}")
            queue.copy_(torch.cat([queue, rows.to(queue.dtype)])[len(rows) :])
            self.count[self.names.index(name)] += len(rows)


def nearest(query_ND: Tensor, support_MD: Tensor, *, tile: int = 1024) -> Tensor:
    """The row of a support set with the largest dot product, for each query. No gradient.

    Args:
        query_ND: (N, D).
        support_MD: (M, D), at least one row.
        tile: Queries at a time, so that the (N, M) products are never held whole.

    Returns:
        (N, D), rows of the support set.
    """
    with torch.no_grad():
        index = [(part @ support_MD.T).argmax(1) for part in query_ND.split(tile)]
    return support_MD[torch.cat(index)]


class GroupedQueue(nn.Module):
    """A queue of vectors, each with the number of its group.

    Args:
        length: Vectors that it holds at most.
        width: D.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.vectors, self.groups = Queues(["all"], length, width), Queues(["all"], length, 1)

    def earlier(self) -> tuple[Tensor, Tensor]:
        """(M, D) vectors and (M,) int64 groups, the oldest first."""
        return self.vectors.earlier("all"), self.groups.earlier("all").squeeze(1).round().long()

    def push(self, vectors_ND: Tensor, group_N: Tensor) -> None:
        """Add vectors (N, D) and their groups (N,), below 2^24 as they are float32; -1 for none."""
        self.vectors.push({"all": vectors_ND})
        self.groups.push({"all": group_N[:, None]})
