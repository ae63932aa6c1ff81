"""Features of frozen backbones, computed once for every record and cached on disk.

Heads on top of them then train in minutes.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged
from amodal.data import Dataset
from amodal.data.cache import Cache
from amodal.data.fetch import cache
from amodal.modalities import BadValue, Modality, config
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.encoder import Encoder
from amodal.progress import Bar
from amodal.train import distributed

CHUNK = 512
"""Records of a file."""
BATCH_SIZE = 64
"""Records of a forward pass."""

Array = npt.NDArray[Any]


class CachedModality:
    """The modality of a cached field. Values are (tokens, width + 3), and are not augmented."""

    def __init__(self, width: int):
        self.width = width

    def augment(self, value: Array, view: str, rng: np.random.Generator) -> Array:
        return value

    def collate(self, values: Sequence[Array]) -> Ragged:
        """Rows of tokens, which `Backbone` recognises by their two dimensions."""
        tensors = [torch.from_numpy(v.astype(np.float32)) for v in values]
        # the empty first value makes an empty list of values work
        return Ragged.of([torch.zeros(0, self.width + 3), *tensors])[1 + torch.arange(len(tensors))]


class CachedFeatures(Dataset):
    """The same records, with some fields replaced by the features of their backbones."""

    def __init__(self, dataset: Dataset, stores: dict[str, FeatureStore]):
        self.__dict__.update(dataset.__dict__ | {"fingerprint": dataset.fingerprint})
        self.fields = {
            name: cast(Modality, CachedModality(stores[name].width)) if name in stores else modality
            for name, modality in dataset.fields.items()
        }
        self.cache, self.stores = Cache(), stores

    def with_fields(self, modalities: Mapping[str, Modality]) -> CachedFeatures:
        return CachedFeatures(super().with_fields(modalities), self.stores)

    def value(self, i: int, field: str) -> Array | None:
        return self.stores[field].value(i) if field in self.stores else super().value(i, field)


def with_cached_features(
    dataset: Dataset,
    encoder: Encoder,
    device: torch.device,
    *,
    pooled: bool,
    progress: bool = True,
) -> CachedFeatures:
    """The dataset with cached features of the encoder's frozen backbones.

    Features that an earlier run has cached are not computed a second time.

    Args:
        pooled: Cache the mean of the tokens of a value instead of all tokens. A mean commutes with
            the linear map that follows a backbone, so vectors of whole values do not change, and
            the cache is much smaller.

    Raises:
        AmodalError: If there is no frozen backbone, or the cache cannot be written.
    """
    fields = [f for f in dataset.fields if encoder.contextual(f) and encoder.tokenizers[f].frozen]
    if not fields:
        raise AmodalError(
            "there is no frozen backbone whose features could be cached: "
            "give one for each field, --backbone FIELD=SPEC"
        )
    stores = {}
    for field in fields:
        backbone = cast(Backbone, encoder.tokenizers[field])
        description = {
            "backbone": backbone.name,
            "weights": digest(backbone.body),
            "field": {field: config(dataset.fields[field])},
            "data": dataset.fingerprint,
            "records": len(dataset),
            "pooled": pooled,
        }
        stores[field] = store = FeatureStore(
            cache() / "features", description, len(dataset), backbone.body.width
        )
        if distributed.rank() == 0:
            store.fill(
                dataset,
                field,
                FeatureExtractor(backbone.body.to(device), device, pooled),
                progress=progress,
            )
        distributed.barrier()
    return CachedFeatures(dataset, stores)


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

    def __call__(self, values: Tensor | Ragged) -> tuple[npt.NDArray[np.float32], list[int]]:
        return compute_features(self.body, values, self.device, self.pooled)


@dataclass(frozen=True)
class _Chunk:
    """The features of a chunk of records: flat (tokens, width + 3), lengths and ends (records,)."""

    flat: Array
    lengths: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    bad: dict[str, str]


class FeatureStore:
    """The cached features of one field, in chunks of records on disk."""

    def __init__(self, root: Path, description: dict[str, object], records: int, width: int):
        text = json.dumps(description, sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.folder, self.description = root / name, description
        self.records, self.width = records, width
        self.chunks: dict[int, _Chunk] = {}

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
        header = json.loads(self._file(start, "json").read_text())
        lengths = np.array(header["lengths"])
        flat = np.load(self._file(start, "npy"), mmap_mode="r", allow_pickle=False)
        return _Chunk(flat, lengths, np.maximum(lengths, 0).cumsum(), header["bad"])

    def fill(
        self, dataset: Dataset, field: str, extract: FeatureExtractor, *, progress: bool
    ) -> None:
        """Compute the chunks that are missing.

        Raises:
            AmodalError: If they cannot be written.
        """
        missing = [s for s in range(0, self.records, CHUNK) if not self._file(s, "json").exists()]
        done = self.records - sum(min(CHUNK, self.records - s) for s in missing)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "plan.json").write_text(json.dumps(self.description, indent=1))
            if missing:
                with Bar(f"features of {field}", self.records, start=done, shown=progress) as bar:
                    for start in missing:
                        self._fill_chunk(start, dataset, field, extract, bar)
        except OSError as e:
            raise AmodalError(
                f"features could not be written to {self.folder}: {e.strerror or e}. "
                "Finished parts stay. Free some space, or set AMODAL_CACHE to a folder with more, "
                "and repeat the command."
            ) from e

    def _fill_chunk(
        self, start: int, dataset: Dataset, field: str, extract: FeatureExtractor, bar: Bar
    ) -> None:
        stop = min(start + CHUNK, self.records)
        lengths: list[int] = []
        bad: dict[str, str] = {}
        parts: list[npt.NDArray[np.float32]] = []
        for first in range(start, stop, BATCH_SIZE):
            batch = range(first, min(first + BATCH_SIZE, stop))
            values, present = _decoded(dataset, field, batch, bad)
            of_batch = dict.fromkeys(batch, -1)
            if values:
                flat, counts = extract(dataset.fields[field].collate(values))
                parts.append(flat)
                of_batch |= dict(zip(present, counts))
            lengths += of_batch.values()
            bar.step("records", by=len(batch))
        whole = np.concatenate(parts) if parts else np.zeros((0, extract.width + 3), np.float32)
        half = whole.astype(np.float16)
        # renamed when whole, so that a chunk that a kill cut short is never taken for one
        draft = self.folder / ".draft.npy"
        np.save(draft, half if np.isfinite(half).all() else whole)
        draft.replace(self._file(start, "npy"))
        # the header is last: a chunk is complete when it exists
        draft.write_text(json.dumps({"lengths": lengths, "bad": bad}))
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
