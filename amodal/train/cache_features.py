"""What frozen backbones make of every record, computed once and kept: a head on top then trains in
minutes, and the next one too.

CACHE/features/<digest>/   the digest is of backbone, weights, field and data
    plan.json              what they are of
    000000.npy             (tokens, width + 3) of a chunk of records: features, and where each token
                           is
    000000.json            tokens of each record (-1: it has none), and why values could not be read

Chunks that are done outlive an interruption. Values are kept as 16-bit floats unless that is too
narrow for them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged
from amodal.data import Dataset
from amodal.data.cache import Cache
from amodal.data.fetch import cache
from amodal.modalities import BadValue, config
from amodal.nn.backbones.pretrained import Backbone
from amodal.progress import Bar
from amodal.train import distributed

CHUNK, AT_ONCE = 512, 64


class Seen:
    """The modality of a field that a backbone has looked at: decoded values are (tokens, width +
    3). Nothing is left to augment."""

    def __init__(self, width: int):
        self.width = width

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        return value

    def collate(self, values: list[np.ndarray]) -> Ragged:
        """Rows of tokens for `Backbone`, which knows them by their two dimensions."""
        tensors = [torch.from_numpy(v.astype(np.float32)) for v in values]
        return Ragged.of([torch.zeros(0, self.width + 3), *tensors])[1 + torch.arange(len(tensors))]


class CachedFeatures(Dataset):
    """The same records; the values of some fields are what backbones made of them."""

    def __init__(self, dataset: Dataset, stores: dict[str, Store]):
        self.__dict__.update(dataset.__dict__ | {"fingerprint": dataset.fingerprint})
        self.fields = {
            f: Seen(stores[f].width) if f in stores else m for f, m in dataset.fields.items()
        }
        self.cache, self.stores = Cache(), stores

    def with_fields(self, modalities) -> CachedFeatures:
        return CachedFeatures(super().with_fields(modalities), self.stores)

    def value(self, i: int, field: str) -> np.ndarray | None:
        return self.stores[field].value(i) if field in self.stores else super().value(i, field)


def remembered(
    dataset: Dataset, encoder, device: torch.device, *, pooled: bool, progress: bool = True
) -> CachedFeatures:
    """The dataset with what the encoder's frozen backbones make of it; computed now unless an
    earlier run did.

    pooled: keep the mean of the tokens of a value instead of all of them. A linear map and a mean
    may change places, so that for vectors of whole values nothing changes, and there is much less
    to keep. Raises AmodalError without a frozen backbone, and where the cache cannot be written.
    """
    fields = [f for f in dataset.fields if encoder.contextual(f) and encoder.tokenizers[f].frozen]
    if not fields:
        raise AmodalError(
            "there is no frozen backbone whose features could be kept: give one for each field, --backbone FIELD=SPEC"
        )
    stores = {}
    for field in fields:
        backbone: Backbone = encoder.tokenizers[field]
        what = {
            "backbone": backbone.name,
            "weights": digest(backbone.body),
            "field": {field: config(dataset.fields[field])},
            "data": dataset.fingerprint,
            "records": len(dataset),
            "pooled": pooled,
        }
        stores[field] = store = Store(cache() / "features", what, len(dataset), backbone.body.width)
        if distributed.rank() == 0:
            store.fill(dataset, field, backbone.body.to(device), device, pooled, progress)
        distributed.barrier()
    return CachedFeatures(dataset, stores)


def digest(module: nn.Module) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class Store:
    """Features of one field, in chunks of records on disk."""

    def __init__(self, root: Path, what: dict, records: int, width: int):
        name = hashlib.blake2b(
            json.dumps(what, sort_keys=True).encode(), digest_size=16
        ).hexdigest()
        self.folder, self.what, self.records, self.width = root / name, what, records, width
        self.chunks: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, str]]] = {}

    def value(self, i: int) -> np.ndarray | None:
        """(tokens, width + 3), None where record i has no value. Raises BadValue with the reason it
        could not be read."""
        start = i // CHUNK * CHUNK
        if start not in self.chunks:
            about = json.loads(self._file(start, "json").read_text())
            lengths = np.array(about["lengths"])
            ends = np.maximum(lengths, 0).cumsum()
            kept = np.load(self._file(start, "npy"), mmap_mode="r", allow_pickle=False)
            self.chunks[start] = kept, lengths, ends, about["bad"]
        flat, lengths, ends, bad = self.chunks[start]
        at = i - start
        if str(i) in bad:
            raise BadValue(bad[str(i)])
        return None if lengths[at] < 0 else np.array(flat[ends[at] - lengths[at] : ends[at]])

    def fill(
        self, dataset: Dataset, field: str, body: nn.Module, device, pooled: bool, progress: bool
    ) -> None:
        todo = [s for s in range(0, self.records, CHUNK) if not self._file(s, "json").exists()]
        done = self.records - sum(min(CHUNK, self.records - s) for s in todo)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "plan.json").write_text(json.dumps(self.what, indent=1))
            if todo:
                with Bar(f"features of {field}", self.records, start=done, shown=progress) as bar:
                    for start in todo:
                        self._chunk(start, dataset, field, body, device, pooled, bar)
        except OSError as e:
            raise AmodalError(
                f"features could not be kept in {self.folder}: {e.strerror or e}. What is done stays. Make room, or set "
                "AMODAL_CACHE to a folder with more, and give the same command again."
            ) from e

    def _chunk(
        self, start: int, dataset: Dataset, field: str, body, device, pooled: bool, bar: Bar
    ) -> None:
        lengths, bad, parts = [], {}, []
        stop = min(start + CHUNK, self.records)
        for first in range(start, stop, AT_ONCE):
            values = []
            for i in range(first, min(first + AT_ONCE, stop)):
                try:
                    value = dataset.value(i, field)
                except BadValue as reason:
                    value, bad[str(i)] = None, str(reason)
                lengths.append(-1 if value is None else 0)
                if value is not None:
                    values.append(
                        dataset.fields[field].augment(value, "plain", np.random.default_rng(0))
                    )
            if values:
                flat, own = look(body, dataset.fields[field].collate(values), device, pooled)
                parts.append(flat)
                there = [k for k in range(first - start, len(lengths)) if lengths[k] == 0]
                for k, n in zip(there, own):
                    lengths[k] = n
            bar.step("records", by=min(AT_ONCE, stop - first))
        flat = np.concatenate(parts) if parts else np.zeros((0, body.width + 3), np.float32)
        narrow = flat.astype(np.float16)
        draft = self.folder / ".draft.npy"
        np.save(draft, narrow if np.isfinite(narrow).all() else flat)
        draft.replace(self._file(start, "npy"))
        draft.write_text(
            json.dumps({"lengths": lengths, "bad": bad})
        )  # last: a chunk is done when this is there
        draft.replace(self._file(start, "json"))

    def _file(self, start: int, ending: str) -> Path:
        return self.folder / f"{start:06d}.{ending}"


@torch.no_grad()
def look(
    body: nn.Module, values: Tensor | Ragged, device, pooled: bool
) -> tuple[np.ndarray, list[int]]:
    """(tokens, width + 3) float32 of some values, and how many tokens each has."""
    features, lengths, position = body(Column(values, torch.arange(len(values))).to(device).values)
    flat = torch.cat([features.float(), position.float()], 1)
    if pooled:
        row = torch.repeat_interleave(torch.arange(len(lengths), device=flat.device), lengths)
        total = flat.new_zeros(len(lengths), flat.shape[1]).index_add(0, row, flat)
        some = lengths > 0
        flat, lengths = total[some] / lengths[some, None], some.long()
    return flat.cpu().numpy(), lengths.tolist()
