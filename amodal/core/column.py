"""One source's values for the rows that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from amodal.core.host import host_copy, known, on_host, paired, take, to_device, where_true


@dataclass(frozen=True)
class Ragged:
    """Values of different lengths, end to end.

    flat: (sum of lengths, ...); lengths: (N,) int64, zero allowed. The CPU knows the lengths
    wherever they lie, see `core.host`.
    """

    flat: Tensor
    lengths: Tensor

    def __post_init__(self):
        if self.lengths.dim() != 1 or self.lengths.dtype != torch.int64:
            raise ValueError(
                f"lengths must be (N,) int64, got {tuple(self.lengths.shape)} {self.lengths.dtype}"
            )

    @staticmethod
    def of(values: Sequence[Tensor]) -> Ragged:
        """values: N tensors that agree in every dimension but the first; N >= 1."""
        return Ragged(
            torch.cat(list(values)), torch.tensor([len(v) for v in values], dtype=torch.int64)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Tensor) -> Ragged:
        """The values at `index` (n,) int64, in that order."""
        lengths = take(self.lengths, index)
        return Ragged(self.flat[spans(take(self.starts(), index), lengths)], lengths)

    def starts(self) -> Tensor:
        """(N,) where each value begins in `flat`."""
        return on_host(lambda lengths: lengths.cumsum(0) - lengths, self.lengths)

    def split(self) -> tuple[Tensor, ...]:
        return self.flat.split(host_copy(self.lengths).tolist())

    def to(self, device) -> Ragged:
        return Ragged(to_device(self.flat, device), to_device(self.lengths, device))


Values = Tensor | Ragged


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths,) the indices start, start+1, … of every span, end to end."""
    return on_host(_spans, starts, lengths)


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    within = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
    return starts[owner] + within


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Lengths or rows, one list after another; the CPU knows of the whole if it does of the parts."""
    copies = [known(p) for p in parts]
    whole = torch.cat(list(parts))
    if whole.device.type == "cpu" or any(c is None for c in copies):
        return whole
    return paired(whole, torch.cat([c for c in copies if c is not None]))


def concatenate(parts: Sequence[Values]) -> Values:
    """Values one after another; all Tensors or all Ragged."""
    if isinstance(parts[0], Ragged):
        ragged = cast(Sequence[Ragged], parts)
        return Ragged(torch.cat([p.flat for p in ragged]), joined([p.lengths for p in ragged]))
    return torch.cat(list(cast(Sequence[Tensor], parts)))


@dataclass(frozen=True)
class Column:
    """values: Tensor (N, ...) or Ragged of N; rows: (N,) int64, ascending and unique: the rows of
    the batch that have them."""

    values: Values
    rows: Tensor

    def __post_init__(self):
        if self.rows.dim() != 1 or self.rows.dtype != torch.int64:
            raise ValueError(
                f"rows must be (N,) int64, got {tuple(self.rows.shape)} {self.rows.dtype}"
            )
        if len(self.values) != len(self.rows):
            raise ValueError(f"{len(self.values)} values for {len(self.rows)} rows")

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Tensor) -> Column:
        """The entries at `index` (n,) int64 or (N,) bool, which must keep the order of rows."""
        index = to_device(
            where_true(index) if index.dtype == torch.bool else index, self.rows.device
        )
        values = self.values[index] if isinstance(self.values, Ragged) else take(self.values, index)
        return Column(values, take(self.rows, index))

    def between(self, start: int, stop: int) -> Column:
        """The entries of rows start <= row < stop, renumbered from zero."""
        low, high = torch.searchsorted(host_copy(self.rows), torch.tensor([start, stop])).tolist()
        piece = self.at(torch.arange(low, high))
        return Column(piece.values, on_host(lambda rows: rows - start, piece.rows))

    def present(self, size: int) -> Tensor:
        """(size,) bool: which rows have a value."""
        return torch.zeros(size, dtype=torch.bool, device=self.rows.device).index_fill_(
            0, self.rows, True
        )

    @property
    def flat(self) -> Tensor:
        """The numbers alone: the values, or those of Ragged end to end."""
        return self.values.flat if isinstance(self.values, Ragged) else self.values

    def with_flat(self, numbers: Tensor) -> Column:
        """Other numbers for the same rows, of the same lengths."""
        return Column(
            Ragged(numbers, self.values.lengths) if isinstance(self.values, Ragged) else numbers,
            self.rows,
        )

    def to(self, device) -> Column:
        values = (
            self.values.to(device)
            if isinstance(self.values, Ragged)
            else to_device(self.values, device)
        )
        return Column(values, to_device(self.rows, device))

    @staticmethod
    def stack(parts: Sequence[Column], sizes: Sequence[int]) -> Column:
        """Columns of consecutive batches of `sizes` rows as one column of the batch they make
        together."""
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        rows = [on_host(lambda rows, o=o: rows + o, p.rows) for p, o in zip(parts, offsets)]
        return Column(concatenate([p.values for p in parts]), joined(rows))


def shared_rows(a: Column, b: Column) -> tuple[Tensor, Tensor]:
    """Indices into `a` and into `b` of the rows that both have, in row order."""
    rows_a, rows_b = host_copy(a.rows), host_copy(b.rows)
    at_b = torch.searchsorted(rows_b, rows_a).clamp(max=max(len(b) - 1, 0))
    both = rows_b[at_b] == rows_a if len(b) else torch.zeros(len(a), dtype=torch.bool)
    return to_device(both.nonzero().squeeze(1), a.rows.device), to_device(at_b[both], b.rows.device)


def both(a: Column, b: Column) -> tuple[Column, Column]:
    """The rows that two columns share, of each."""
    at_a, at_b = shared_rows(a, b)
    return a.at(at_a), b.at(at_b)
