"""The values of one source, for the rows that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from amodal.core.host import host_copy, known, on_host, paired, take, to_device, where_true


@dataclass(frozen=True)
class Ragged:
    """Values of different lengths, concatenated.

    The CPU has a copy of the lengths wherever they lie, see `amodal.core.host`.

    Args:
        flat: (sum of lengths, ...).
        lengths: (N,) int64, zero allowed.
    """

    flat: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if self.lengths.dim() != 1 or self.lengths.dtype != torch.int64:
            raise ValueError(
                f"lengths must be (N,) int64, got {tuple(self.lengths.shape)} {self.lengths.dtype}"
            )

    @staticmethod
    def of(values: Sequence[Tensor]) -> Ragged:
        """Concatenate values.

        Args:
            values: N >= 1 tensors that agree in every dimension but the first.
        """
        lengths = torch.tensor([len(v) for v in values], dtype=torch.int64)
        return Ragged(torch.cat(list(values)), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Tensor) -> Ragged:
        """The values at `index` (n,) int64, in its order."""
        lengths = take(self.lengths, index)
        return Ragged(self.flat[spans(take(self.starts(), index), lengths)], lengths)

    def starts(self) -> Tensor:
        """(N,) the index in `flat` of the start of each value."""
        return on_host(lambda lengths: lengths.cumsum(0) - lengths, self.lengths)

    def split(self) -> tuple[Tensor, ...]:
        """The N values as tensors."""
        return torch.split(self.flat, host_copy(self.lengths).tolist())

    def to(self, device: torch.device | str) -> Ragged:
        """The values on a device."""
        return Ragged(to_device(self.flat, device), to_device(self.lengths, device))


Values = Tensor | Ragged


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths,) the indices start, start+1, … of every span, concatenated."""
    return on_host(_spans, starts, lengths)


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    within = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
    return starts[owner] + within


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate lengths or rows. The result has a CPU copy if all parts have one."""
    copies = [known(p) for p in parts]
    whole = torch.cat(list(parts))
    # a copy that one part lacks would have to be fetched; `host_copy` does so if anybody asks for
    # it
    if whole.device.type == "cpu" or any(c is None for c in copies):
        return whole
    return paired(whole, torch.cat([c for c in copies if c is not None]))


def concatenate(parts: Sequence[Values]) -> Values:
    """Concatenate values, which are all Tensors or all Ragged."""
    if isinstance(parts[0], Ragged):
        ragged = cast(Sequence[Ragged], parts)
        return Ragged(torch.cat([p.flat for p in ragged]), joined([p.lengths for p in ragged]))
    return torch.cat(list(cast(Sequence[Tensor], parts)))


@dataclass(frozen=True)
class Column:
    """The values of one source.

    Args:
        values: (N, ...), or Ragged with N values.
        rows: (N,) int64, ascending and unique: the rows of the batch that have a value.
    """

    values: Values
    rows: Tensor

    def __post_init__(self) -> None:
        if self.rows.dim() != 1 or self.rows.dtype != torch.int64:
            raise ValueError(
                f"rows must be (N,) int64, got {tuple(self.rows.shape)} {self.rows.dtype}"
            )
        if len(self.values) != len(self.rows):
            raise ValueError(f"{len(self.values)} values for {len(self.rows)} rows")

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Tensor) -> Column:
        """Some entries.

        Args:
            index: (n,) int64 that keeps the order of rows, or (N,) bool.
        """
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
        """Which rows of a batch have a value: (size,) bool."""
        return torch.zeros(size, dtype=torch.bool, device=self.rows.device).index_fill_(
            0, self.rows, True
        )

    @property
    def flat(self) -> Tensor:
        """The values as one tensor: `values`, or `values.flat` of Ragged."""
        return self.values.flat if isinstance(self.values, Ragged) else self.values

    def with_flat(self, numbers: Tensor) -> Column:
        """A column with other numbers for the same rows and lengths."""
        return Column(
            Ragged(numbers, self.values.lengths) if isinstance(self.values, Ragged) else numbers,
            self.rows,
        )

    def to(self, device: torch.device | str) -> Column:
        """The column on a device."""
        values = (
            self.values.to(device)
            if isinstance(self.values, Ragged)
            else to_device(self.values, device)
        )
        return Column(values, to_device(self.rows, device))

    @staticmethod
    def stack(parts: Sequence[Column], sizes: Sequence[int]) -> Column:
        """Concatenate the columns of consecutive batches.

        Args:
            sizes: Rows of each batch.
        """
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        rows = [on_host(lambda rows, o=o: rows + o, p.rows) for p, o in zip(parts, offsets)]
        return Column(concatenate([p.values for p in parts]), joined(rows))


def shared_rows(a: Column, b: Column) -> tuple[Tensor, Tensor]:
    """Indices into `a` and `b` of the rows that both have, two (n,) int64 in row order."""
    rows_a, rows_b = host_copy(a.rows), host_copy(b.rows)
    # rows are sorted on both sides; a row behind the last one of b is clamped to an entry that
    # differs
    at_b = torch.searchsorted(rows_b, rows_a).clamp(max=max(len(b) - 1, 0))
    both = rows_b[at_b] == rows_a if len(b) else torch.zeros(len(a), dtype=torch.bool)
    return to_device(both.nonzero().squeeze(1), a.rows.device), to_device(at_b[both], b.rows.device)


def both(a: Column, b: Column) -> tuple[Column, Column]:
    """The entries of both columns for the rows that both have."""
    at_a, at_b = shared_rows(a, b)
    return a.at(at_a), b.at(at_b)
