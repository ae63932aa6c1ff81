"""The output of an encoder: one vector for each source of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.column import Column, shared_rows
from amodal.core.host import host_copy, on_host, to_device
from amodal.errors import unknown

FUSED = "fused"
"""The reserved source of vectors of all sources of a row together."""


class Embeddings:
    """One vector for each source of each row.

    Args:
        columns: Source -> values (N, D).
        size: Rows of the batch, B.
    """

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
        """The sources, without the fused vectors."""
        return tuple(s for s in self.columns if s != FUSED)

    def pair(self, a: str, b: str) -> tuple[Tensor, Tensor]:
        """The vectors of the rows that have both sources, two (n, D) in row order."""
        at_a, at_b = shared_rows(self[a], self[b])
        return vectors(self[a])[at_a], vectors(self[b])[at_b]

    def complete(self, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """The rows that have all of some sources.

        Returns:
            (n,) the rows, and their vectors, one (n, D) for each name.
        """
        # a source has a row once at most, so the row that has all of them is counted len(names)
        # times
        counts = [torch.bincount(host_copy(self[n].rows), minlength=self.size) for n in names]
        count = torch.stack(counts).sum(0)
        common = (count == len(names)).nonzero().squeeze(1)
        indices = [
            on_host(lambda rows: torch.searchsorted(rows, common), self[n].rows) for n in names
        ]
        rows = to_device(common, self[names[0]].rows.device)
        return rows, [vectors(self[n])[index] for n, index in zip(names, indices)]

    def fused(self, names: Sequence[str] | None = None) -> Column:
        """One vector for each row that has any of some sources.

        It is the fused vector of the network if there is one and `names` is None, else the mean of
        the row's unit vectors.

        Args:
            names: Sources; None for all.
        """
        if names is None and FUSED in self:
            return self[FUSED]
        columns = [self[n] for n in (names if names is not None else self.sources)]
        first = vectors(columns[0])
        total = first.new_zeros(self.size, first.shape[1])
        # counted on the CPU: `rows` below has a length that would otherwise be fetched from the
        # device
        number = torch.zeros(self.size, dtype=total.dtype)
        for c in columns:
            total = total.index_add(0, c.rows, normalize(vectors(c), dim=1))
            number += torch.bincount(host_copy(c.rows), minlength=self.size)
        count = to_device(number, total.device)
        rows = to_device(number.nonzero().squeeze(1), total.device)
        return Column(total[rows] / count[rows].unsqueeze(1), rows)

    def with_columns(self, columns: Mapping[str, Column], size: int) -> Embeddings:
        """Embeddings with other values of the same columns."""
        return Embeddings(dict(columns), size)

    def to_numpy(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Source -> rows (N,) int64 and vectors (N, D) float32."""
        return {
            s: (c.rows.cpu().numpy(), vectors(c).detach().float().cpu().numpy())
            for s, c in self.columns.items()
        }

    @staticmethod
    def stack(parts: Sequence[Embeddings]) -> Embeddings:
        """Concatenate the embeddings of consecutive batches."""
        sizes = [p.size for p in parts]
        columns = {s: Column.stack([p[s] for p in parts], sizes) for s in parts[0]}
        return Embeddings(columns, sum(sizes))


def vectors(column: Column) -> Tensor:
    """The values (N, D) of a column with one vector for each row."""
    return cast(Tensor, column.values)
