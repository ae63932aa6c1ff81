"""Simple features of a dataset's records: values of a field, their reduction, fields side by side.

What they are is the business of each modality (`Modality.simple_features`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from amodal.core import Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.cache import MAX_BYTES, Entry
from amodal.modalities import BadValue, Modality, Raw
from amodal.train.cache_features import CachedFeatures

MAX_WIDTH = 256
"""Dimensions of a field; wider ones are rotated and cut (PCA)."""
MAX_FITTED = 5000
"""Rows that a rotation is fitted on."""


def original_values(dataset: Dataset, field: str) -> Dataset:
    """The same records, with the values of a field as its modality decodes them."""
    if isinstance(dataset, CachedFeatures) and field in dataset.stores:
        return dataset.original
    return dataset


class FieldValues(Sequence[Raw]):
    """Values of one field, read when asked for. Decoded values are taken from the dataset's cache.

    Args:
        dataset: Where they are.
        field: Their field.
        rows: (n,) numbers of records that have a value.

    Raises:
        BadValue: On reading a value that is gone.
    """

    def __init__(self, dataset: Dataset, field: str, rows: np.ndarray):
        self.dataset, self.field, self.rows = dataset, field, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> FieldValues: ...
    def __getitem__(self, index: int | slice) -> Raw | FieldValues:
        if isinstance(index, slice):
            return type(self)(self.dataset, self.field, self.rows[index])
        raw = self.dataset.raw(int(self.rows[index]), self.field)
        if raw is None:
            raise self._gone(self.rows[index])
        return raw

    def take(self, indices: Sequence[int]) -> FieldValues:
        """The values at `indices`."""
        return type(self)(self.dataset, self.field, self.rows[np.asarray(indices, np.int64)])

    def decoded(self, modality: Modality) -> list[np.ndarray]:
        """See `amodal.modalities.DecodedValues`."""
        if modality != self.dataset.fields[self.field]:
            return [modality.decode_finite(raw) for raw in self]
        values = []
        for row, entry in zip(self.rows, self._entries()):
            if isinstance(entry, BadValue):
                raise entry
            if entry is None:
                raise self._gone(row)
            values.append(entry)
        return values

    def readable(self) -> np.ndarray:
        """(n,) bool: which values can be decoded."""
        return np.array([isinstance(e, np.ndarray) for e in self._entries()], dtype=bool)

    def _entries(self) -> Iterator[Entry]:
        cache = self.dataset.cache
        return (cache.get(self.dataset, int(i), self.field, MAX_BYTES) for i in self.rows)

    def _gone(self, row: int) -> BadValue:
        return BadValue(f"{self.field} has no value in record {row}")


@dataclass(frozen=True)
class Reduction:
    """Brings features to a typical length of 1, and to at most `MAX_WIDTH` dimensions.

    Args:
        rotation: (D, `MAX_WIDTH`), None where they are few enough.
        length: The typical length of training rows after the rotation.
    """

    rotation: Tensor | None
    length: float

    @staticmethod
    def of(train: Tensor) -> Reduction:
        """That of training features (N, D)."""
        rotation = None
        if train.shape[1] > MAX_WIDTH and len(train) > MAX_WIDTH:
            chosen = torch.linspace(0, len(train) - 1, min(len(train), MAX_FITTED)).long()
            some = train[chosen].double()
            centred = some - some.mean(0)
            rotation = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -MAX_WIDTH:].float()
            train = train @ rotation
        length = float(train.square().sum(1).mean().sqrt().clamp_min(1e-9)) if len(train) else 1.0
        return Reduction(rotation, length)

    def __call__(self, x_ND: Tensor) -> Tensor:
        return (x_ND if self.rotation is None else x_ND @ self.rotation) / self.length


def reduced(parts: Sequence[Tensor]) -> list[Tensor]:
    """Training and test features of a typical length of 1, and of at most `MAX_WIDTH` dimensions
    where there are enough rows to choose these."""
    reduce = Reduction.of(parts[0])
    return [reduce(part) for part in parts]


def side_by_side(columns: Mapping[str, Column], size: int, flagged: Sequence[str]) -> Column:
    """Features of all fields side by side, zeros for those that a record lacks, and flags of them.

    Args:
        columns: Of the fields.
        size: Records.
        flagged: Fields that some training records lack.
    """
    blocks, exists = [], torch.zeros(size, dtype=torch.bool)
    for name, column in columns.items():
        x = vectors_of(column)
        blocks.append(x.new_zeros(size, x.shape[1]).index_copy(0, column.rows, x))
        present = column.present(size)
        exists |= present
        if name in flagged:
            blocks.append(present.to(x.dtype)[:, None])
    rows = exists.nonzero().squeeze(1)
    return Column(torch.cat(blocks, 1)[rows], rows)
