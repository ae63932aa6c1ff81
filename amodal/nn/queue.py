"""Vectors of earlier rows, for losses that want more strangers than a batch holds. He et al. 2020,
MoCo, arXiv:1911.05722, 3.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Queues(nn.Module):
    """For each name the last `length` vectors of `width` that were pushed. Push in
    `Method.on_step_end` and nowhere else."""

    def __init__(self, names: Sequence[str], length: int, width: int):
        super().__init__()
        self.names = list(names)
        for name in self.names:
            self.register_buffer(f"kept_{name}", torch.zeros(length, width))
        self.register_buffer("count", torch.zeros(len(self.names), dtype=torch.int64))

    def earlier(self, name: str) -> Tensor:
        """(M, width), the oldest first; M grows from 0 to the length."""
        kept = self.get_buffer(f"kept_{name}")
        return kept[max(0, len(kept) - int(self.count[self.names.index(name)])) :]

    @torch.no_grad()
    def push(self, new: Mapping[str, Tensor]) -> None:
        """new: name -> (n, width), of which the last stay if there are more than fit."""
        for name, rows in new.items():
            kept = self.get_buffer(f"kept_{name}")
            kept.copy_(torch.cat([kept, rows.to(kept.dtype)])[len(rows) :])
            self.count[self.names.index(name)] += len(rows)


class GroupedQueue(nn.Module):
    """The last `length` vectors of `width` that were pushed, and the group of each (int64 below
    2^24, -1 for none)."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.vectors, self.groups = Queues(["kept"], length, width), Queues(["kept"], length, 1)

    def earlier(self) -> tuple[Tensor, Tensor]:
        """(M, width) and (M,) int64, the oldest first."""
        return self.vectors.earlier("kept"), self.groups.earlier("kept").squeeze(1).round().long()

    def push(self, vectors_ND: Tensor, group_N: Tensor) -> None:
        self.vectors.push({"kept": vectors_ND})
        self.groups.push({"kept": group_N[:, None]})
