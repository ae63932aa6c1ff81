"""A bag of tokens: what enters and leaves the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amodal.core.column import Column, joined
from amodal.core.host import host_copy, known, on_host, paired, take, to_device, where_true
from amodal.errors import unknown

POSITION_DIMS = 3
"""Coordinates of a token: (time, height, width) or (x, y, z). What a kind of data has no axis for
is zero."""


@dataclass(frozen=True)
class Tokens:
    """A flat list of tokens, ordered by row and, within a row, in the order of `names` and then of
    position.

    x: (T, D); row: (T,) int64 ascending; source: (T,) int64, indexes `names`; position: (T, 3) real
    coordinates; size: B, the number of rows, some of which may have no token.
    """

    x: Tensor
    row: Tensor
    source: Tensor
    position: Tensor
    names: tuple[str, ...]
    size: int

    def __post_init__(self):
        if not len(self.x) == len(self.row) == len(self.source) == len(self.position):
            raise ValueError(
                f"{len(self.x)} tokens, {len(self.row)} rows, {len(self.source)} sources, {len(self.position)} positions"
            )

    @staticmethod
    def of(
        x_TD: Tensor, rows_N: Tensor, lengths_N: Tensor, position_TP: Tensor, name: str, size: int
    ) -> Tokens:
        """Tokens of one source: `lengths_N` tokens for each of the rows `rows_N`, end to end."""
        row = torch.repeat_interleave(rows_N, lengths_N, output_size=len(x_TD))
        rows, lengths = known(rows_N), known(lengths_N)
        if rows is not None and lengths is not None:
            paired(row, torch.repeat_interleave(rows, lengths))
        return Tokens(x_TD, row, zeros_like(row), position_TP, (name,), size)

    def __len__(self) -> int:
        return len(self.x)

    def with_x(self, x: Tensor) -> Tokens:
        return replace(self, x=x)

    def at(self, index: Tensor) -> Tokens:
        """The tokens at `index` (t,) int64, which must keep the order of rows."""
        index = to_device(index, self.row.device)
        row, source = take(self.row, index), take(self.source, index)
        return replace(self, x=self.x[index], row=row, source=source, position=self.position[index])

    def keep(self, mask_T: Tensor) -> Tokens:
        """The tokens where `mask_T` (T,) bool is true; a mask on the CPU makes nobody wait for a
        GPU."""
        if len(mask_T) != len(self):
            raise ValueError(f"a mask of {len(mask_T)} entries for {len(self)} tokens")
        return self.at(where_true(mask_T))

    def only(self, *names: str) -> Tokens:
        """The tokens of these sources; `names` stays as it was, so that `source` still indexes it."""
        wanted = torch.tensor([self.index(n) for n in names], dtype=torch.int64)
        return self.keep(torch.isin(host_copy(self.source), wanted))

    def index(self, name: str) -> int:
        if name not in self.names:
            raise unknown("source among these tokens", name, self.names)
        return self.names.index(name)

    @staticmethod
    def join(bags: Sequence[Tokens]) -> Tokens:
        """One bag: row by row, the tokens of the first bag, then of the second, …; a source may
        occur in several bags."""
        names = tuple(dict.fromkeys(n for bag in bags for n in bag.names))
        if len({bag.size for bag in bags}) != 1:
            raise ValueError(f"bags of different batches: {[bag.size for bag in bags]} rows")
        row = joined([b.row for b in bags])
        order = on_host(lambda row: torch.argsort(row, stable=True), row)
        return Tokens(
            torch.cat([b.x for b in bags])[order],
            take(row, order),
            take(joined([b.source_among(names) for b in bags]), order),
            torch.cat([b.position for b in bags])[order],
            names,
            bags[0].size,
        )

    def source_among(self, names: Sequence[str], called: Callable[[str], str] = str) -> Tensor:
        """(T,) the source of each token as an index into other names. called: source -> its name
        there."""
        number = torch.tensor([names.index(called(n)) for n in self.names], dtype=torch.int64)
        return on_host(lambda source: number[source], self.source)

    def renamed(self, name: str) -> Tokens:
        """The same tokens as those of one source."""
        return replace(self, source=zeros_like(self.source), names=(name,))

    def skeleton(self) -> Tokens:
        """The tokens without what they hold, on the CPU: what a mask is drawn from. x: (T, 0)."""
        row, source = host_copy(self.row), host_copy(self.source)
        position = known(self.position)
        position = self.position if position is None else position
        return replace(self, x=torch.zeros(len(row), 0), row=row, source=source, position=position)

    def lengths(self) -> Tensor:
        """(B,) tokens in each row."""
        return on_host(lambda row: torch.bincount(row, minlength=self.size), self.row)

    def rows(self) -> Tensor:
        """(N,) the rows that have a token."""
        return where_true(self.lengths())

    def within(self) -> Tensor:
        """(T,) the number of each token inside its row: 0, 1, …"""
        lengths = self.lengths()
        start = on_host(lambda lengths: lengths.cumsum(0) - lengths, lengths)
        return torch.arange(len(self), device=self.row.device) - start[self.row]

    def pool(self) -> Column:
        """The mean token of each row that has one: values (N, D)."""
        lengths = self.lengths()
        total = self.x.new_zeros(self.size, self.x.shape[1]).index_add(0, self.row, self.x)
        rows = self.rows()
        return Column(total[rows] / lengths[rows].unsqueeze(1), rows)

    def first(self) -> Column:
        """The first token of each row that has one (the CLS token, where it was put first): values
        (N, D)."""
        lengths = self.lengths()
        rows = self.rows()
        return Column(self.x[(lengths.cumsum(0) - lengths)[rows]], rows)


def zeros_like(t: Tensor) -> Tensor:
    """Zeros beside `t`, of which the CPU knows that they are."""
    copy = None if t.device.type == "cpu" else torch.zeros(t.shape, dtype=t.dtype)
    return paired(torch.zeros_like(t), copy)
