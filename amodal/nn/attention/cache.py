"""A key/value cache for causal networks: each new token costs one pass of itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core.host import to_device


class KeyValueCache:
    """Keys and values (C, kv_heads, d) of C tokens, for every attention of one network.

    For inference: what is cached has no gradient. Tokens are in the order in which they came.

    Attributes:
        row: (C,) int64 on the CPU, the row of each token.
        place: (C,) int64 on the CPU, its number in the row, from 0.
        source: (C,) int64 on the CPU, its source as an index into `names`.
        names: Of the sources.
    """

    def __init__(self) -> None:
        self.row = self.place = self.source = torch.zeros(0, dtype=torch.int64)
        self.names: list[str] = []
        self._cache: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.row)

    def lengths(self, size: int) -> Tensor:
        """(size,) cached tokens of each row."""
        return torch.bincount(self.row, minlength=size)

    def source_among(self, names: Sequence[str]) -> Tensor:
        """(C,) the source of each token as an index into other names.

        Raises:
            ValueError: If a source is not among them.
        """
        return torch.tensor([list(names).index(n) for n in self.names], dtype=torch.int64)[
            self.source
        ]

    def add(self, row: Tensor, source: Tensor, place: Tensor, names: Sequence[str]) -> None:
        """Announce tokens whose keys and values come next, in their order.

        Args:
            row: (n,) int64.
            source: (n,) int64, indexes `names`.
            place: (n,) int64.
            names: Of sources.
        """
        self.names += [n for n in names if n not in self.names]
        source = torch.tensor([self.names.index(n) for n in names], dtype=torch.int64)[source]
        self.row, self.source = torch.cat([self.row, row]), torch.cat([self.source, source])
        self.place = torch.cat([self.place, place])

    def extend(self, attention: nn.Module, k_THd: Tensor, v_THd: Tensor) -> tuple[Tensor, Tensor]:
        """Cache the keys and values of the tokens that were added last.

        Args:
            attention: Whose keys and values they are.
            k_THd, v_THd: (n, kv_heads, d).

        Returns:
            Theirs, and then those of all tokens before.
        """
        k_THd, v_THd = k_THd.detach(), v_THd.detach()
        if attention not in self._cache:
            self._cache[attention] = k_THd, v_THd
            return k_THd, v_THd
        old = self._cache[attention]
        self._cache[attention] = torch.cat([old[0], k_THd]), torch.cat([old[1], v_THd])
        # New ones first: the layout numbers them from 0, and its keys count those of the cache
        # behind them. What is cached stays in the order of `row`, so that its indices never change.
        return torch.cat([k_THd, old[0]]), torch.cat([v_THd, old[1]])

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was, for a beam search.

        Args:
            rows: (n,) int64; rows may be repeated or left out.
        """
        rows = rows.cpu()
        if torch.equal(rows, torch.arange(len(rows))) and not bool((self.row >= len(rows)).any()):
            return
        # (n, C); `nonzero` goes through it row by row, so each new row has its tokens in their old
        # order
        matches = self.row.unsqueeze(0) == rows.unsqueeze(1)
        row, index = matches.nonzero(as_tuple=True)
        self.row, self.place, self.source = row, self.place[index], self.source[index]
        for attention, (k, v) in self._cache.items():
            chosen = to_device(index, k.device)
            self._cache[attention] = k[chosen], v[chosen]
