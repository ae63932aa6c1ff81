"""Features of a frozen backbone on disk.

CACHE/features/<digest>/   the digest is of backbone, weights, field and data
    plan.json              what the digest is of
    000000.npy             (tokens, width + 3) of a chunk of records: features, then positions
    000000.json            tokens of each record (-1: it lacks the field), and the reasons why
                           values could not be read

Finished chunks survive an interruption. Values are stored as float16 unless they overflow it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged
from amodal.data import Dataset
from amodal.modalities import BadValue
from amodal.progress import Bar

CHUNK = 512
"""Records of a file."""
BATCH_SIZE = 64
"""Records of a forward pass."""
MOST = 0.75
"""Share of the records of a chunk that are read, from which all of them are computed and cached."""

Array = npt.NDArray[Any]


def digest(module: nn.Module) -> str:
    """A hash of all weights of a module."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        # names too: the same numbers under other names are another network
        hasher.update(name.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        hasher.update(cast(npt.NDArray[np.uint8], flat.view(torch.uint8).numpy()).tobytes())
    return hasher.hexdigest()


@dataclass(frozen=True)
class FeatureExtractor:
    """The frozen network whose outputs are cached.

    Args:
        body: Values -> (features, lengths, positions).
        pooled: See `with_cached_features`.
    """

    body: nn.Module
    device: torch.device
    pooled: bool

    @property
    def width(self) -> int:
        return cast(int, self.body.width)

    def of_records(self, dataset: Dataset, field: str, records: Iterable[int]) -> Features:
        """The features of some records."""
        bad: dict[str, str] = {}
        lengths = dict.fromkeys(records, -1)
        values, present = _decoded(dataset, field, lengths, bad)
        flat = np.zeros((0, self.width + 3), np.float32)
        if values:
            collated = dataset.fields[field].collate(values)
            flat, counts = compute_features(self.body, collated, self.device, self.pooled)
            lengths |= dict(zip(present, counts))
        return Features(flat, list(lengths.values()), bad)


class Features(NamedTuple):
    """The features of some records.

    Args:
        flat: (tokens, width + 3) features, then positions.
        lengths: Tokens of each record, -1 where it lacks the field.
        bad: Record -> why its value could not be read.
    """

    flat: npt.NDArray[np.float32]
    lengths: list[int]
    bad: dict[str, str]


class FeatureReader:
    """Reads the features of one field in a known order; computes those that are not cached.

    Args:
        store: The cached features.
        dataset: The records as they are.
        field: Of which.
        rows: (n,) the records that are read, in this order.
    """

    def __init__(self, store: FeatureStore, dataset: Dataset, field: str, rows: np.ndarray):
        self.store, self.dataset, self.field, self.rows = store, dataset, field, rows
        self.order = {i: number for number, i in enumerate(rows.tolist())}
        self.pending: dict[int, Array | BadValue | None] = {}
        starts, counts = np.unique(rows // CHUNK * CHUNK, return_counts=True)
        sizes = np.minimum(CHUNK, store.records - starts)
        dense = store.extract.pooled & (counts >= MOST * sizes)
        self.dense = set(starts[dense].tolist())

    def value(self, i: int) -> Array | None:
        """See `FeatureStore.value`."""
        start = i // CHUNK * CHUNK
        if start in self.dense and not self.store.holds(i):
            self.store.fill(self.dataset, self.field, progress=False, starts=[start])
        if self.store.holds(i):
            return self.store.value(i)
        if i not in self.pending:
            self._compute_ahead(i)
        value = self.pending.pop(i)
        if isinstance(value, BadValue):
            raise value
        return value

    def _compute_ahead(self, i: int) -> None:
        """Compute record i and those that are read next; what was not read is dropped."""
        later = self.rows[self.order.get(i, len(self.rows)) :][:BATCH_SIZE].tolist()
        batch = [j for j in later if not self.store.holds(j)] or [i]
        features = self.store.extract.of_records(self.dataset, self.field, batch)
        flat = smallest(features.flat)
        ends = np.maximum(features.lengths, 0).cumsum()
        self.pending = {
            j: None if length < 0 else flat[end - length : end]
            for j, length, end in zip(batch, features.lengths, ends)
        }
        self.pending |= {int(j): BadValue(reason) for j, reason in features.bad.items()}


def smallest(flat: npt.NDArray[np.float32]) -> Array:
    """The values as float16, unless they overflow it."""
    with np.errstate(over="ignore"):
        half = flat.astype(np.float16)
    return half if np.isfinite(half).all() else flat


@dataclass(frozen=True)
class _Chunk:
    """The features of a chunk of records: flat (tokens, width + 3), lengths and ends (records,)."""

    flat: Array
    lengths: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    bad: dict[str, str]


class FeatureStore:
    """The cached features of one field, in chunks of records on disk."""

    def __init__(
        self, root: Path, description: dict[str, object], records: int, extract: FeatureExtractor
    ):
        text = json.dumps(description, sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.folder, self.description = root / name, description
        self.records, self.extract = records, extract
        self.chunks: dict[int, _Chunk] = {}

    @property
    def width(self) -> int:
        """Of the features, without the positions."""
        return self.extract.width

    def holds(self, i: int) -> bool:
        """Whether the features of record i are cached."""
        start = i // CHUNK * CHUNK
        return start in self.chunks or self._file(start, "json").exists()

    def value(self, i: int) -> Array | None:
        """The features of record i.

        Returns:
            (tokens, width + 3); None if the record lacks the field.

        Raises:
            BadValue: If its value could not be read.
        """
        start = i // CHUNK * CHUNK
        if start not in self.chunks:
            self.chunks[start] = self._read(start)
        chunk, row = self.chunks[start], i - start
        if str(i) in chunk.bad:
            raise BadValue(chunk.bad[str(i)])
        length, end = chunk.lengths[row], chunk.ends[row]
        return None if length < 0 else np.array(chunk.flat[end - length : end])

    def _read(self, start: int) -> _Chunk:
        header = json.loads(self._file(start, "json").read_text(encoding="utf-8"))
        lengths = np.array(header["lengths"])
        flat = np.load(self._file(start, "npy"), mmap_mode="r", allow_pickle=False)
        return _Chunk(flat, lengths, np.maximum(lengths, 0).cumsum(), header["bad"])

    def fill(
        self,
        dataset: Dataset,
        field: str,
        *,
        progress: bool,
        starts: Iterable[int] | None = None,
    ) -> None:
        """Compute the chunks that are missing.

        Args:
            dataset: The records.
            field: Of which.
            progress: Show a bar.
            starts: First records of the chunks; None for all.

        Raises:
            AmodalError: If they cannot be written.
        """
        wanted = range(0, self.records, CHUNK) if starts is None else starts
        missing = [s for s in wanted if not self._file(s, "json").exists()]
        done = self.records - sum(min(CHUNK, self.records - s) for s in missing)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "plan.json").write_text(
                json.dumps(self.description, indent=1), encoding="utf-8"
            )
            if missing:
                with Bar(f"features of {field}", self.records, start=done, shown=progress) as bar:
                    for start in missing:
                        self._fill_chunk(start, dataset, field, bar)
        except OSError as e:
            raise AmodalError(
                f"features could not be written to {self.folder}: {e.strerror or e}. "
                "Finished parts stay. Free some space, or set AMODAL_CACHE to a folder with more, "
                "and repeat the command."
            ) from e

    def _fill_chunk(self, start: int, dataset: Dataset, field: str, bar: Bar) -> None:
        stop = min(start + CHUNK, self.records)
        parts: list[Features] = []
        for first in range(start, stop, BATCH_SIZE):
            batch = range(first, min(first + BATCH_SIZE, stop))
            parts.append(self.extract.of_records(dataset, field, batch))
            bar.step("records", by=len(batch))
        whole = np.concatenate([part.flat for part in parts])
        # renamed when whole, so that a chunk that a kill cut short is never taken for one; the name
        # is of this process, as others may fill the folder too
        draft = self.folder / f".{start:06d}.{os.getpid()}.{uuid.uuid4().hex[:8]}.npy"
        np.save(draft, smallest(whole))
        draft.replace(self._file(start, "npy"))
        # the header is last: a chunk is complete when it exists
        header = {
            "lengths": [length for part in parts for length in part.lengths],
            "bad": {i: reason for part in parts for i, reason in part.bad.items()},
        }
        draft.write_text(json.dumps(header), encoding="utf-8")
        draft.replace(self._file(start, "json"))

    def _file(self, start: int, suffix: str) -> Path:
        return self.folder / f"{start:06d}.{suffix}"


def _decoded(
    dataset: Dataset, field: str, records: Iterable[int], bad: dict[str, str]
) -> tuple[list[Any], list[int]]:
    """Values of some records and the records that have one; unreadable ones are added to `bad`."""
    values, present = [], []
    for i in records:
        try:
            value = dataset.value(i, field)
        except BadValue as reason:
            bad[str(i)] = str(reason)
            continue
        if value is not None:
            modality = dataset.fields[field]
            values.append(modality.augment(value, "plain", np.random.default_rng(0)))
            present.append(i)
    return values, present


@torch.no_grad()
def compute_features(
    body: nn.Module, values: Tensor | Ragged, device: torch.device, pooled: bool
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Run a backbone on some values.

    Returns:
        (tokens, width + 3) features and positions, and the number of tokens of each value.
    """
    features, lengths, position = body(Column(values, torch.arange(len(values))).to(device).values)
    flat = torch.cat([features.float(), position.float()], 1)
    if pooled:
        row = torch.repeat_interleave(torch.arange(len(lengths), device=flat.device), lengths)
        total = flat.new_zeros(len(lengths), flat.shape[1]).index_add(0, row, flat)
        some = lengths > 0
        flat, lengths = total[some] / lengths[some, None], some.long()
    return flat.cpu().numpy(), lengths.tolist()
