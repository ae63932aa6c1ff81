"""A batch on its way from a worker process.

torch puts each tensor into shared memory of its own, which costs more than the content of a small
one. So small tensors travel inside the message, as arrays, and only large ones as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.core import Batch, Column, Ragged

MAX_INLINE_BYTES = 2**14
"""Bytes up to which a tensor travels inside the message. A pipe holds four such messages."""

Part = Tensor | np.ndarray
Packed = tuple[Part, ...]
"""A column: its rows, then its values. If those are Ragged: their flat numbers and lengths."""


@dataclass(frozen=True)
class SharedBatch:
    """The parts of a Batch."""

    keys: tuple[str, ...]
    seeds: Part
    columns: dict[str, Packed]
    labels: dict[str, Packed]

    @staticmethod
    def pack(batch: Batch) -> SharedBatch:
        """The parts of `batch`, small tensors as arrays."""
        return SharedBatch(batch.keys, _light(batch.seeds), _all(batch.columns), _all(batch.labels))

    def unpack(self) -> Batch:
        """The batch that was packed."""
        columns, labels = (
            {source: _column(*parts) for source, parts in packed.items()}
            for packed in (self.columns, self.labels)
        )
        return Batch(len(self.keys), columns, self.keys, torch.as_tensor(self.seeds), labels)


def _all(columns: Mapping[str, Column]) -> dict[str, Packed]:
    return {source: tuple(map(_light, _parts(column))) for source, column in columns.items()}


def _parts(column: Column) -> tuple[Tensor, ...]:
    values = column.values
    return (
        (column.rows, values.flat, values.lengths)
        if isinstance(values, Ragged)
        else (column.rows, values)
    )


def _light(tensor: Tensor) -> Part:
    return tensor.numpy() if tensor.nbytes <= MAX_INLINE_BYTES else tensor


def _column(rows: Part, values: Part, lengths: Part | None = None) -> Column:
    numbers = torch.as_tensor(values)
    return Column(
        numbers if lengths is None else Ragged(numbers, torch.as_tensor(lengths)),
        torch.as_tensor(rows),
    )
