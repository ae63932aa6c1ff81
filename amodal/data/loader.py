"""Batches of records: a pure function of (dataset, indices, seed, step).

They do not depend on the number of workers or ranks, nor on where a run was stopped.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from amodal.core import (
    AmodalError,
    AmodalWarning,
    Batch,
    Column,
    Ragged,
    row_seeds,
    unknown,
    views_of,
)
from amodal.core.argument_types import check_type, is_whole
from amodal.data import order
from amodal.data.cache import MAX_BYTES, Entry
from amodal.data.class_numbers import class_numbers, known_numbers
from amodal.data.dataset import Dataset
from amodal.data.groups import GroupSampler
from amodal.data.mixture import MixtureSampler
from amodal.data.quarantine import Bad, Quarantine
from amodal.data.readers import Reader
from amodal.data.readers.changed import row_numbers
from amodal.data.remote import Unreachable, parallel_map
from amodal.data.shm_batch import SharedBatch
from amodal.modalities import VARIANTS
from amodal.modalities.shared.protocols import VariesByStep
from amodal.modalities.shared.views import TOGETHER, salt_of

T = TypeVar("T")
Views = tuple[str, ...] | Mapping[str, tuple[str, ...]]
"""Views of every field, or field -> views of it. A single view is the source `image`; more are
`image:1`, `image:2`, …"""

UNUSED_RNG = np.random.default_rng(0)
"""For the plain view, which draws nothing from it."""

WARNED: weakref.WeakKeyDictionary[Reader, set[str]] = weakref.WeakKeyDictionary()
"""What was warned of some records: a training makes more than one loader of them."""


class Loader:
    """Iterates over records in batches.

    Every batch is of one epoch, so that no record is in it twice (and would be contrasted with
    itself). The n % batch records that an epoch leaves out are others in the next one. A record
    whose every field is missing or bad still has its row. A field that no record has is warned of.

    Args:
        dataset: that has the records.
        indices: (n,) numbers of the records to load.
        batch: rows of a global batch. This rank loads `batch / world` of them, from row
            `rank * batch / world` on.
        views: of each field. Fields that a dict of views does not name are "plain".
        seed: of the order, and of all that is random in a row.
        steps: where to end, counted from the start of the run; None for one epoch.
        start_step: where to begin. It is the whole state of a loader.
        workers: processes that decode, 0 for none.
        rank: of this process.
        world: number of ranks.
        shuffle: another order in each epoch. Else `indices` as they are and, if `steps` is None, a
            short last batch.
        labels: names of labels that batches have with them, as class numbers (in the order of
            their names) or as amounts.
        groups: (n,) int64, the group of each of `indices`: each batch is then of one group (see
            `amodal.data.groups`).
        cache_bytes: memory for decoded values, divided among the workers.

    Raises:
        AmodalError: there are no records, a field or a view is unknown, or ranks cannot share a
            batch equally.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int] | np.ndarray,
        *,
        batch: int,
        views: Views = ("plain",),
        seed: int = 0,
        steps: int | None = None,
        start_step: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        labels: Sequence[str] = (),
        groups: Sequence[int] | np.ndarray | None = None,
        cache_bytes: int = MAX_BYTES,
    ) -> None:
        if not isinstance(dataset, Dataset):
            raise AmodalError(
                "a Loader reads a Dataset, such as amodal.as_dataset(data), not an object of type "
                f"{type(dataset).__name__}"
            )
        check_type("batch", batch, is_whole, "a whole number, the rows of a batch")
        rows = row_numbers(indices, len(dataset), dataset.name)
        self.dataset, self.indices = dataset, rows
        self.batch, self.seed, self.start_step, self.shuffle = batch, seed, start_step, shuffle
        self.workers, self.rank, self.world = workers, rank, world
        self.cache_bytes = cache_bytes // max(workers, 1)
        self.views = _views(dataset, views)
        self.sources = {
            source: field
            for field, views in self.views.items()
            for source in views_of(field, len(views))
        }
        self.labels = {
            name: class_numbers(dataset.label(name, required=True))[0] for name in labels
        }
        self._bad = Quarantine()
        if not len(self.indices):
            raise AmodalError(
                f"no records to load from {dataset.name!r}: this part of its split is empty. "
                "Add data or choose another part."
            )
        if batch < 1 or batch % world:
            raise AmodalError(
                f"a batch of {batch} rows cannot be shared equally by {world} processes. "
                f"Choose a multiple of {world}."
            )
        self.one_pass = steps is None and not shuffle
        self.groups = None if groups is None else GroupSampler(groups, batch, seed)
        self.mixture = self._mixture_sampler(dataset) if shuffle else None
        self.steps = self.steps_per_epoch if steps is None else steps
        for field in dataset.fields:
            if not dataset.present(field)[self.indices].any():
                none = f"none of the {len(self.indices):,} records has the field {field!r}"
                message = f"{none} of {dataset.name!r}"
                if message not in (warned := WARNED.setdefault(dataset.reader, set())):
                    warned.add(message)
                    warnings.warn(message, AmodalWarning, stacklevel=2)

    def _mixture_sampler(self, dataset: Dataset) -> MixtureSampler | None:
        if dataset.proportions is None:
            return None
        if self.groups is not None:
            raise AmodalError(
                "batches of one group cannot have the proportions of a Mixture; "
                "train on one dataset"
            )
        return MixtureSampler(dataset.proportions, self.indices, self.batch, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch. Without shuffling and `steps` also the last, short one."""
        if self.one_pass:
            return math.ceil(len(self.indices) / self.batch)
        if self.groups is not None:
            return self.groups.batches
        return max(len(self.indices) // self.batch, 1)

    def __len__(self) -> int:
        return max(self.steps - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        lost = 0
        with worker_errors():
            for batch, bad in self._batches():
                self._bad.add(bad)
                lost = lost + 1 if bad and not any(len(c) for c in batch.columns.values()) else 0
                if self.shuffle and lost >= MAX_UNREADABLE_BATCHES:
                    raise AmodalError(
                        f"none of the last {lost} batches of {self.dataset.name!r} could be read, "
                        f"at last {bad[0].key}: {bad[0].reason}. "
                        "Has the data been moved, or its disk gone?"
                    )
                yield batch

    @property
    def bad(self) -> list[Bad]:
        """The values that could not be read so far, each once."""
        return self._bad.entries()

    def quarantine(self, path: str | Path) -> int:
        """Append the values in `bad` that the JSONL file `path` does not have yet.

        Returns:
            How many were appended.
        """
        return self._bad.append_to(path)

    def load(self, step: int) -> tuple[Batch, list[Bad]]:
        """The batch of one step, and its values that could not be read."""
        batch, bad = self.load_uncollated(step)
        return self.collate(batch), bad

    def load_uncollated(self, step: int) -> tuple[Batch, list[Bad]]:
        """As `load`, with columns of uint8 values not yet collated.

        Workers send these: bytes are a quarter of the size of the float32 that `collate` makes.
        """
        records, epochs = self._rows(step)
        keys = [self.dataset.keys[i] for i in records]
        seeds = self._seeds(keys, epochs)
        columns: dict[str, Column] = {}
        bad: list[Bad] = []
        for field, views in self.views.items():
            entries = parallel_map(
                partial(self._entry, field), records.tolist(), self.dataset.reader.is_remote
            )
            bad += [
                Bad(key, field, str(e)) for key, e in zip(keys, entries) if isinstance(e, Exception)
            ]
            decoded = {
                row: entry for row, entry in enumerate(entries) if isinstance(entry, np.ndarray)
            }
            rows, values = list(decoded), list(decoded.values())
            for source, view in zip(views_of(field, len(views)), views):
                columns[source] = self._column(field, source, view, values, rows, seeds, step)
        labels = {name: known_numbers(values[records]) for name, values in self.labels.items()}
        return Batch(len(keys), columns, tuple(keys), seeds, labels), bad

    def _entry(self, field: str, i: int) -> Entry:
        return self.dataset.cache.get(self.dataset, i, field, self.cache_bytes)

    def collate(self, batch: Batch) -> Batch:
        """The batch of `load`, from that of `load_uncollated`."""
        columns = {
            source: self._collated(source, column) for source, column in batch.columns.items()
        }
        return replace(batch, columns=columns)

    def _collated(self, source: str, column: Column) -> Column:
        if isinstance(column.values, Ragged) or column.values.dtype != torch.uint8:
            return column
        return Column(
            self.dataset.fields[self.sources[source]].collate(column.values.numpy()), column.rows
        )

    def _rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Records and epochs of this rank's rows."""
        share, n = self.batch // self.world, len(self.indices)
        if self.mixture is not None:
            rows, epochs = self.mixture.rows(step)
            first = self.rank * share
            return self.indices[rows[first : first + share]], epochs[first : first + share]
        epoch, within = divmod(step, self.steps_per_epoch)
        # a position among all epochs of n records; the last n % batch of each epoch are passed over
        start = epoch * n + within * self.batch + self.rank * share
        if self.groups is not None:
            whole = self.groups.batch_indices(epoch, within)
            mine = whole[self.rank * share : (self.rank + 1) * share]
            return self.indices[mine], np.full(len(mine), epoch)
        stop = min(start + share, n) if self.one_pass else start + share
        # of a short last batch nothing may be left for this rank
        positions = np.arange(start, max(start, stop))
        chosen, epochs = order.epochs(positions, n, seed=self.seed, shuffle=self.shuffle)
        return self.indices[chosen], epochs

    def _seeds(self, keys: Sequence[str], epochs: np.ndarray) -> torch.Tensor:
        """(B,) int64 from key, seed and epoch of each row."""
        seeds = torch.zeros(len(keys), dtype=torch.int64)
        for epoch in np.unique(epochs):
            rows = np.flatnonzero(epochs == epoch)
            # one salt for each (seed, epoch), below 2^32 epochs
            seeds[torch.from_numpy(rows)] = row_seeds(
                [keys[row] for row in rows.tolist()], salt=(self.seed << 32) + int(epoch)
            )
        return seeds

    def _column(
        self,
        field: str,
        source: str,
        view: str,
        values: list[np.ndarray],
        rows: list[int],
        seeds: torch.Tensor,
        step: int,
    ) -> Column:
        modality = self.dataset.fields[field]
        together = view in TOGETHER
        if view != "plain" and not together and isinstance(modality, VariesByStep):
            drawn = [self.seed % 2**64, step, zlib.crc32(field.encode())]
            modality = modality.of_step(np.random.default_rng(drawn))
        plain, salt = view == "plain", salt_of(view, source)
        generators = repeat(UNUSED_RNG) if plain else _generators(seeds[rows].numpy(), salt)
        view = modality.known_view(view)
        seen = [modality.augment(value, view, rng) for value, rng in zip(values, generators)]
        as_bytes = bool(seen) and all(
            v.dtype == np.uint8 and v.shape == seen[0].shape for v in seen
        )
        numbers = torch.from_numpy(np.stack(seen)) if as_bytes else modality.collate(seen)
        return Column(numbers, torch.tensor(rows, dtype=torch.int64))

    def _batches(self) -> Iterator[tuple[Batch, list[Bad]]]:
        steps = range(self.start_step, self.steps)
        if not self.workers:
            return map(self.load, steps)
        # Without this generator torch would draw from the global one, and a run would depend on
        # having workers.
        generator = torch.Generator().manual_seed(self.seed)
        packed = DataLoader(
            _Steps(self, steps),
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_identity,
            generator=generator,
        )
        return ((self.collate(shared.unpack()), bad) for shared, bad in packed)


MAX_UNREADABLE_BATCHES = 3
"""After so many random batches in a row without any readable value, the problem is not single
files."""


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Turn the exceptions by which torch reports a dead worker into an AmodalError.

    torch raises them in the main thread, wherever that is.
    """
    try:
        yield
    except Unreachable as error:  # torch puts the worker's traceback before its message
        raise Unreachable(str(error).rpartition("Unreachable: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise AmodalError(
            f"a process that decodes records ended: {str(error).splitlines()[0]} Often the memory "
            "ran out: take fewer workers, or none (--workers 0). Checkpoints are unharmed; "
            "go on with --resume."
        ) from error


class _Steps(torch.utils.data.Dataset[tuple[SharedBatch, list[Bad]]]):
    """The batches of some steps as a dataset of torch, for its worker processes."""

    def __init__(self, loader: Loader, steps: range) -> None:
        self.loader, self.steps = loader, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> tuple[SharedBatch, list[Bad]]:
        batch, bad = self.loader.load_uncollated(self.steps[number])
        return SharedBatch.pack(batch), bad


def _identity(item: T) -> T:
    return item


def _generators(seeds: np.ndarray, source: str) -> Iterator[np.random.Generator]:
    """A generator for each row, a function of the row's seed and of the source.

    Use each before the next one is drawn: it is one generator whose key is set anew, which takes 3
    us instead of the 10 us of making one.
    """
    # crc32, and not `hash`, which Python salts anew in every process
    philox = np.random.Philox(key=[0, zlib.crc32(source.encode())])
    generator, state = np.random.Generator(philox), philox.state
    for seed in seeds.view(np.uint64):
        state["state"]["key"][0] = seed
        # this also sets the counter back, so that a row does not depend on the draws of the one
        # before
        philox.state = state
        yield generator


def _views(dataset: Dataset, views: Views) -> dict[str, tuple[str, ...]]:
    if isinstance(views, Mapping):
        for field in views:
            if field not in dataset.fields:
                raise unknown(f"field of {dataset.name!r}", field, dataset.fields)
        chosen = {field: tuple(views.get(field, ("plain",))) for field in dataset.fields}
    else:
        chosen = {field: tuple(views) for field in dataset.fields}
    for field, of_field in chosen.items():
        known = dataset.fields[field].views
        for view in of_field:
            if view not in known and view not in VARIANTS:
                raise unknown(f"view of {field}", view, dict.fromkeys((*known, *VARIANTS)))
            dataset.fields[field].known_view(view)  # says what the view lacks
    return chosen
