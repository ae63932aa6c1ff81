"""Keys and values of tokens that a causal network has read already, so that each new token costs
one pass of itself alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core.host import to_device


class KeyValueCache:
    """Of every attention of one network the keys and values (C, kv_heads, d) of C tokens, in the
    order in which they came.

    row, place: (C,) int64 on the CPU, the row of each token and its number in it, from 0; source:
    (C,), its source as an index into `names`. For inference: what is cached has no gradient.
    """

    def __init__(self):
        self.row = self.place = self.source = torch.zeros(0, dtype=torch.int64)
        self.names: list[str] = []
        self._held: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.row)

    def lengths(self, size: int) -> Tensor:
        """(size,) tokens of each row."""
        return torch.bincount(self.row, minlength=size)

    def source_among(self, names: Sequence[str]) -> Tensor:
        """(C,) the source of each token as an index into `names`. Raises ValueError for one that is
        not among them."""
        return torch.tensor([list(names).index(n) for n in self.names], dtype=torch.int64)[
            self.source
        ]

    def add(self, row: Tensor, source: Tensor, place: Tensor, names: Sequence[str]) -> None:
        """Tokens whose keys and values are about to come, in their order. source: as an index into
        these names."""
        self.names += [n for n in names if n not in self.names]
        source = torch.tensor([self.names.index(n) for n in names], dtype=torch.int64)[source]
        self.row, self.source = torch.cat([self.row, row]), torch.cat([self.source, source])
        self.place = torch.cat([self.place, place])

    def extend(self, attention: nn.Module, k_THd: Tensor, v_THd: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of the tokens added last. Returns theirs and then those of all
        that came before."""
        k_THd, v_THd = k_THd.detach(), v_THd.detach()
        if attention not in self._held:
            self._held[attention] = k_THd, v_THd
            return k_THd, v_THd
        old = self._held[attention]
        self._held[attention] = tuple(torch.cat([o, new]) for o, new in zip(old, (k_THd, v_THd)))
        return torch.cat([k_THd, old[0]]), torch.cat([v_THd, old[1]])

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was, for a beam search: rows may be repeated or left
        out.

        Args:
            rows: (n,) int64.
        """
        rows = rows.cpu()
        if torch.equal(rows, torch.arange(len(rows))) and not bool((self.row >= len(rows)).any()):
            return
        own = self.row.unsqueeze(0) == rows.unsqueeze(1)
        row, index = own.nonzero(as_tuple=True)
        self.row, self.place, self.source = row, self.place[index], self.source[index]
        for attention, (k, v) in self._held.items():
            at = to_device(index, k.device)
            self._held[attention] = k[at], v[at]
