"""What an encoder makes of a batch: one vector for each source that a row has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.column import Column, shared_rows
from amodal.core.host import host_copy, on_host, to_device
from amodal.errors import unknown

FUSED = "fused"
"""The reserved source of vectors that a network made of all sources of a row together."""


class Embeddings:
    """columns: source -> Column of (N, D); size: B rows."""

    def __init__(self, columns: dict[str, Column], size: int):
        self.columns, self.size = columns, size

    def __getitem__(self, source: str) -> Column:
        if source not in self.columns:
            raise unknown("source among these embeddings", source, self.columns)
        return self.columns[source]

    def __contains__(self, source: str) -> bool:
        return source in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    @property
    def sources(self) -> tuple[str, ...]:
        """The fields, without the fused vectors."""
        return tuple(s for s in self.columns if s != FUSED)

    def pair(self, a: str, b: str) -> tuple[Tensor, Tensor]:
        """Two (n, D): the vectors of the rows that have both, in row order."""
        at_a, at_b = shared_rows(self[a], self[b])
        return vectors(self[a])[at_a], vectors(self[b])[at_b]

    def complete(self, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """rows (n,) that have every one of `names`, and their vectors, one (n, D) for each name."""
        counts = [torch.bincount(host_copy(self[n].rows), minlength=self.size) for n in names]
        count = torch.stack(counts).sum(0)
        common = (count == len(names)).nonzero().squeeze(1)
        place = [
            on_host(lambda rows: torch.searchsorted(rows, common), self[n].rows) for n in names
        ]
        rows = to_device(common, self[names[0]].rows.device)
        return rows, [vectors(self[n])[at] for n, at in zip(names, place)]

    def fused(self, names: Sequence[str] | None = None) -> Column:
        """One vector for each row that has any of `names`: the network's own where there is one and
        all fields are asked for, else the mean of the unit vectors that the row has."""
        if names is None and FUSED in self:
            return self[FUSED]
        columns = [self[n] for n in (names if names is not None else self.sources)]
        first = vectors(columns[0])
        total = first.new_zeros(self.size, first.shape[1])
        number = torch.zeros(self.size, dtype=total.dtype)
        for c in columns:
            total = total.index_add(0, c.rows, normalize(vectors(c), dim=1))
            number += torch.bincount(host_copy(c.rows), minlength=self.size)
        count = to_device(number, total.device)
        rows = to_device(number.nonzero().squeeze(1), total.device)
        return Column(total[rows] / count[rows].unsqueeze(1), rows)

    def with_columns(self, columns: Mapping[str, Column], size: int) -> Embeddings:
        """Other values of the same columns."""
        return Embeddings(dict(columns), size)

    def to_numpy(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """source -> (rows (N,), vectors (N, D) float32)."""
        return {
            s: (c.rows.cpu().numpy(), vectors(c).detach().float().cpu().numpy())
            for s, c in self.columns.items()
        }

    @staticmethod
    def stack(parts: Sequence[Embeddings]) -> Embeddings:
        """Embeddings of consecutive batches as one."""
        sizes = [p.size for p in parts]
        columns = {s: Column.stack([p[s] for p in parts], sizes) for s in parts[0]}
        return Embeddings(columns, sum(sizes))


def vectors(column: Column) -> Tensor:
    """The values of a column that has one vector for each row."""
    return cast(Tensor, column.values)
