"""A batch holds, for each source, only the values that exist."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from amodal.core.column import Column
from amodal.core.host import host_copy, on_host, take, to_device
from amodal.errors import unknown


def row_seeds(keys: Sequence[str], salt: int = 0) -> Tensor:
    """(B,) int64, one seed for each record: a pure function of its key and `salt`, the same in
    every process."""
    digest = (hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest() for key in keys)
    return torch.tensor(
        [int.from_bytes(d, "little", signed=True) for d in digest], dtype=torch.int64
    )


@dataclass(frozen=True)
class Batch:
    """size: B rows; columns: source -> Column; keys: the B record ids; seeds: (B,) int64; labels:
    what supervised methods asked for, name -> Column of class numbers (int64) or amounts (float32)
    of the rows whose label is known.

    All that is random about a row (masks, noise) is drawn from its seed. So nothing depends on how
    rows are laid out in micro-batches, ranks or workers, and a resumed run draws what the straight
    run would have drawn.
    """

    size: int
    columns: dict[str, Column]
    keys: tuple[str, ...]
    seeds: Tensor
    labels: dict[str, Column] = field(default_factory=dict)

    @staticmethod
    def of(
        size: int, columns: dict[str, Column], keys: Sequence[str] | None = None, salt: int = 0
    ) -> Batch:
        """A batch whose keys default to the row numbers and whose seeds follow from keys and
        `salt`."""
        keys = tuple(keys) if keys is not None else tuple(map(str, range(size)))
        if len(keys) != size:
            raise ValueError(f"{len(keys)} keys for {size} rows")
        return Batch(size, columns, keys, row_seeds(keys, salt))

    def __getitem__(self, source: str) -> Column:
        if source not in self.columns:
            raise unknown("source in this batch", source, self.columns)
        return self.columns[source]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def only(self, *sources: str) -> Batch:
        return replace(self, columns={s: self[s] for s in sources})

    def between(self, start: int, stop: int) -> Batch:
        """Rows start <= row < stop as a batch of their own; every source stays, if need be without
        a row."""
        columns, labels = (
            {s: c.between(start, stop) for s, c in part.items()}
            for part in (self.columns, self.labels)
        )
        return Batch(
            stop - start,
            columns,
            self.keys[start:stop],
            on_host(lambda s: s[start:stop], self.seeds),
            labels,
        )

    def at(self, index: Tensor) -> Batch:
        """The rows at `index` (n,) int64, ascending and unique, as a batch of their own, numbered
        from zero."""
        chosen = host_copy(index)
        number = torch.full((self.size,), -1, dtype=torch.int64)
        number[chosen] = torch.arange(len(chosen))

        def of(part: dict[str, Column]) -> dict[str, Column]:
            pieces = {s: c.at(number[host_copy(c.rows)] >= 0) for s, c in part.items()}
            return {
                s: Column(c.values, on_host(lambda rows: number[rows], c.rows))
                for s, c in pieces.items()
            }

        keys = tuple(self.keys[i] for i in chosen.tolist())
        return Batch(len(chosen), of(self.columns), keys, take(self.seeds, index), of(self.labels))

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of at most `rows` rows."""
        return [self.between(i, min(i + rows, self.size)) for i in range(0, self.size, rows)]

    def present(self) -> Tensor:
        """(B, S) bool, sources in the order of `columns`."""
        table = torch.zeros(
            self.size, len(self.columns), dtype=torch.bool, device=self.seeds.device
        )
        for number, column in enumerate(self.columns.values()):
            table[column.rows, number] = True
        return table

    def to(self, device) -> Batch:
        columns, labels = (
            {s: c.to(device) for s, c in part.items()} for part in (self.columns, self.labels)
        )
        return replace(self, columns=columns, seeds=to_device(self.seeds, device), labels=labels)
