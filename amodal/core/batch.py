"""A batch holds, for each source, only the values that exist."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from amodal.core.column import Column
from amodal.core.host import host_copy, on_host, take, to_device
from amodal.errors import AmodalError, unknown


def row_seeds(keys: Sequence[str], salt: int = 0) -> Tensor:
    """One seed for each record: a pure function of its key and `salt`.

    Returns:
        (B,) int64, the same in every process.
    """
    # not `hash`: Python salts it anew in every process
    digests = (hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest() for key in keys)
    seeds = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(seeds, dtype=torch.int64)


@dataclass(frozen=True)
class Batch:
    """A batch of records.

    Everything random about a row (masks, noise) is drawn from its seed. So nothing depends on how
    rows are divided among micro-batches, ranks or workers, and a resumed run draws the same as an
    uninterrupted one.

    Args:
        size: Number of rows, B.
        columns: Source -> the values that exist.
        keys: Ids of the B records.
        seeds: (B,) int64.
        labels: Name -> class numbers (int64) or amounts (float32) of the rows whose label is known,
            for supervised methods.
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
        """A batch with seeds from its keys and `salt`.

        Args:
            keys: Ids of the records; by default the row numbers.
        """
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
        """The batch with these sources alone."""
        return replace(self, columns={s: self[s] for s in sources})

    def between(self, start: int, stop: int) -> Batch:
        """Rows start <= row < stop as a batch. Every source stays, even without a row."""
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
        """Some rows as a batch, numbered from zero.

        Args:
            index: (n,) int64, ascending and unique.
        """
        chosen = host_copy(index)
        new_row = torch.full((self.size,), -1, dtype=torch.int64)  # old row -> new row
        new_row[chosen] = torch.arange(len(chosen))

        def select(part: dict[str, Column]) -> dict[str, Column]:
            pieces = {s: c.at(new_row[host_copy(c.rows)] >= 0) for s, c in part.items()}
            return {
                s: Column(c.values, on_host(lambda rows: new_row[rows], c.rows))
                for s, c in pieces.items()
            }

        keys = tuple(self.keys[i] for i in chosen.tolist())
        seeds = take(self.seeds, index)
        return Batch(len(chosen), select(self.columns), keys, seeds, select(self.labels))

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of at most `rows` rows."""
        # each has all sources, so that the features of micro-batches have the same columns and can
        # be stacked
        return [self.between(i, min(i + rows, self.size)) for i in range(0, self.size, rows)]

    def present(self) -> Tensor:
        """Which rows have which source: (B, S) bool, sources in the order of `columns`."""
        table = torch.zeros(
            self.size, len(self.columns), dtype=torch.bool, device=self.seeds.device
        )
        for number, column in enumerate(self.columns.values()):
            table[column.rows, number] = True
        return table

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        columns, labels = (
            {s: c.to(device) for s, c in part.items()} for part in (self.columns, self.labels)
        )
        return replace(self, columns=columns, seeds=to_device(self.seeds, device), labels=labels)


def check_batch(batch: object) -> None:
    """Raise AmodalError for what is no batch."""
    if not isinstance(batch, Batch):
        raise AmodalError(
            f"a batch is expected, not {_described(batch)}: what dataset.collate([dataset[0]]) "
            "makes, or DataLoader(dataset, batch_size=32, collate_fn=dataset.collate), or "
            "amodal.data.Loader"
        )


def _described(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
