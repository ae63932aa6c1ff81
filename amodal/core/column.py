"""One source's values for the rows that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Values of different lengths, end to end.

    flat: (sum of lengths, ...); lengths: (N,) int64, zero allowed.
    """

    flat: Tensor
    lengths: Tensor

    def __post_init__(self):
        if self.lengths.dim() != 1 or self.lengths.dtype != torch.int64:
            raise ValueError(f"lengths must be (N,) int64, got {tuple(self.lengths.shape)} {self.lengths.dtype}")

    @staticmethod
    def of(values: Sequence[Tensor]) -> Ragged:
        """values: N tensors that agree in every dimension but the first; N >= 1."""
        return Ragged(torch.cat(list(values)), torch.tensor([len(v) for v in values], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Tensor) -> Ragged:
        """The values at `index` (n,) int64, in that order."""
        lengths = self.lengths[index]
        return Ragged(self.flat[spans(self.starts()[index], lengths)], lengths)

    def starts(self) -> Tensor:
        """(N,) where each value begins in `flat`."""
        return self.lengths.cumsum(0) - self.lengths

    def split(self) -> tuple[Tensor, ...]:
        return self.flat.split(self.lengths.tolist())

    def to(self, device) -> Ragged:
        ahead = torch.device(device).type != "cpu"  # what comes back to the CPU must be there before it is read
        return Ragged(self.flat.to(device, non_blocking=ahead), self.lengths.to(device, non_blocking=ahead))


Values = Tensor | Ragged


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths,) the indices start, start+1, … of every span, end to end."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    within = torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]
    return starts[owner] + within


def concatenate(parts: Sequence[Values]) -> Values:
    """Values one after another; all Tensors or all Ragged."""
    if isinstance(parts[0], Ragged):
        ragged = cast(Sequence[Ragged], parts)
        return Ragged(torch.cat([p.flat for p in ragged]), torch.cat([p.lengths for p in ragged]))
    return torch.cat(list(cast(Sequence[Tensor], parts)))


@dataclass(frozen=True)
class Column:
    """values: Tensor (N, ...) or Ragged of N; rows: (N,) int64, ascending and unique: the rows of the batch that have them."""

    values: Values
    rows: Tensor

    def __post_init__(self):
        if self.rows.dim() != 1 or self.rows.dtype != torch.int64:
            raise ValueError(f"rows must be (N,) int64, got {tuple(self.rows.shape)} {self.rows.dtype}")
        if len(self.values) != len(self.rows):
            raise ValueError(f"{len(self.values)} values for {len(self.rows)} rows")

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Tensor) -> Column:
        """The entries at `index` (n,) int64 or (N,) bool, which must keep the order of rows."""
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        return Column(self.values[index], self.rows[index])

    def between(self, start: int, stop: int) -> Column:
        """The entries of rows start <= row < stop, renumbered from zero."""
        low, high = torch.searchsorted(self.rows, torch.tensor([start, stop], device=self.rows.device)).tolist()
        kept = self.at(torch.arange(low, high, device=self.rows.device))
        return Column(kept.values, kept.rows - start)

    def present(self, size: int) -> Tensor:
        """(size,) bool: which rows have a value."""
        return torch.zeros(size, dtype=torch.bool, device=self.rows.device).index_fill_(0, self.rows, True)

    @property
    def flat(self) -> Tensor:
        """The numbers alone: the values, or those of Ragged end to end."""
        return self.values.flat if isinstance(self.values, Ragged) else self.values

    def with_flat(self, numbers: Tensor) -> Column:
        """Other numbers for the same rows, of the same lengths."""
        return Column(Ragged(numbers, self.values.lengths) if isinstance(self.values, Ragged) else numbers, self.rows)

    def to(self, device) -> Column:
        return Column(self.values.to(device), self.rows.to(device))

    @staticmethod
    def stack(parts: Sequence[Column], sizes: Sequence[int]) -> Column:
        """Columns of consecutive batches of `sizes` rows as one column of the batch they make together."""
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        return Column(concatenate([p.values for p in parts]), torch.cat([p.rows + o for p, o in zip(parts, offsets)]))


def shared_rows(a: Column, b: Column) -> tuple[Tensor, Tensor]:
    """Indices into `a` and into `b` of the rows that both have, in row order."""
    at_b = torch.searchsorted(b.rows, a.rows).clamp(max=max(len(b) - 1, 0))
    both = b.rows[at_b] == a.rows if len(b) else torch.zeros(len(a), dtype=torch.bool, device=a.rows.device)
    return both.nonzero().squeeze(1), at_b[both]


def both(a: Column, b: Column) -> tuple[Column, Column]:
    """The rows that two columns share, of each."""
    at_a, at_b = shared_rows(a, b)
    return a.at(at_a), b.at(at_b)
