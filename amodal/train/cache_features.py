"""Features of frozen backbones, computed once for every record and cached on disk.

Heads on top of them then train in minutes, and a run that was trained on them is evaluated, indexed
and embedded with them. See `amodal.train.feature_store` for the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from amodal.core import AmodalError, Ragged
from amodal.data import Dataset
from amodal.data.cache import Cache
from amodal.data.fetch import cache
from amodal.data.readers.base import Cell, stamp_files
from amodal.data.readers.folder import Folder as FolderReader
from amodal.data.remote import AnyPath, Remote
from amodal.modalities import VIEWS, BadValue, Modality, config
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.encoder import Encoder
from amodal.train import distributed
from amodal.train.feature_store import (
    Array,
    FeatureExtractor,
    FeatureReader,
    FeatureStore,
    digest,
)

PROBES = 256
"""Cells that show whether a column names files."""


class CachedModality:
    """The modality of a cached field. Values are (tokens, width + 3), and are not augmented."""

    views = VIEWS
    at_once = 0

    def __init__(self, width: int):
        self.width = width

    def known_view(self, view: str) -> str:
        return view

    def augment(self, value: Array, view: str, rng: np.random.Generator) -> Array:
        return value

    def collate(self, values: Sequence[Array]) -> Ragged:
        """Rows of tokens, which `Backbone` recognises by their two dimensions."""
        tensors = [torch.from_numpy(v.astype(np.float32)) for v in values]
        # the empty first value makes an empty list of values work
        return Ragged.of([torch.zeros(0, self.width + 3), *tensors])[1 + torch.arange(len(tensors))]


class CachedFeatures(Dataset):
    """The same records, with some fields replaced by the features of their backbones.

    Args:
        dataset: The records as they are, `original`.
        stores: Field -> its features.
        readers: Field -> its features in the order in which they are about to be read.
        cache: Of decoded values; a new one by default.
    """

    def __init__(
        self,
        dataset: Dataset,
        stores: dict[str, FeatureStore],
        readers: dict[str, FeatureReader] | None = None,
        cache: Cache | None = None,
    ):
        self.__dict__.update(dataset.__dict__ | {"fingerprint": dataset.fingerprint})
        self.fields = {
            name: cast(Modality, CachedModality(stores[name].width)) if name in stores else modality
            for name, modality in dataset.fields.items()
        }
        self.cache = Cache() if cache is None else cache
        self.stores, self.original, self.readers = stores, dataset, readers or {}

    def with_fields(self, modalities: Mapping[str, Modality]) -> CachedFeatures:
        return CachedFeatures(super().with_fields(modalities), self.stores)

    def select(self, fields: Iterable[str]) -> CachedFeatures:
        chosen = list(fields)
        stores = {name: store for name, store in self.stores.items() if name in chosen}
        return CachedFeatures(self.original.select(chosen), stores)

    def with_parts(self, parts: Array) -> CachedFeatures:
        return CachedFeatures(self.original.with_parts(parts), self.stores)

    def reading(self, rows: Sequence[int] | np.ndarray) -> CachedFeatures:
        """The same records, which are about to be read in an order.

        Features that are not cached are computed as they are read, many at once. Where they are
        means, those of a whole chunk are cached if most of the chunk is read.

        Args:
            rows: (n,) the records that are read.
        """
        readers = {
            field: FeatureReader(store, self.original, field, np.asarray(rows, dtype=np.int64))
            for field, store in self.stores.items()
        }
        return CachedFeatures(self.original, self.stores, readers, self.cache)

    def fill(self, progress: bool) -> None:
        """Compute the features of all records that are not cached, by one rank for all.

        Args:
            progress: Show bars.

        Raises:
            AmodalError: The cache cannot be written.
        """
        for field, store in self.stores.items():
            if distributed.rank() == 0:
                store.fill(self.original, field, progress=progress)
            distributed.barrier()

    def cell(self, i: int, field: str) -> Cell:
        return self.original.cell(i, field)

    def value(self, i: int, field: str) -> Array | None:
        if field in self.readers:
            return self.readers[field].value(i)
        return self.stores[field].value(i) if field in self.stores else super().value(i, field)


def frozen_backbones(encoder: nn.Module, fields: Iterable[str]) -> dict[str, Backbone]:
    """Field -> its backbone, where that is frozen and its features can be cached."""
    if not isinstance(encoder, Encoder):
        return {}
    backbones = {field: encoder.tokenizers[field] for field in fields if field in encoder.fields}
    return {
        field: backbone
        for field, backbone in backbones.items()
        if isinstance(backbone, Backbone) and backbone.frozen
    }


def reuse_features(
    dataset: Dataset, encoder: nn.Module, device: torch.device, *, pooled: bool
) -> Dataset:
    """The dataset with the features of the encoder's frozen backbones, as far as they are cached.

    Nothing is computed before it is read, see `CachedFeatures.reading`.

    Args:
        dataset: The records.
        encoder: Whose backbones.
        device: Where the backbones are.
        pooled: See `with_cached_features`; as in the training of the run.

    Returns:
        The dataset itself where no backbone is frozen.
    """
    backbones = frozen_backbones(encoder, dataset.fields)
    stores = {
        field: _store(dataset, field, backbone, device, pooled)
        for field, backbone in backbones.items()
    }
    return CachedFeatures(dataset, stores) if stores else dataset


def features_of_run(
    dataset: Dataset, encoder: nn.Module, run_config: Mapping[str, Any], device: torch.device
) -> Dataset:
    """The dataset with cached features of frozen backbones, if a run was trained on such.

    Args:
        dataset: The records.
        encoder: Of the run.
        run_config: Its config.json.
        device: Where the encoder is.
    """
    schedule = run_config.get("schedule", {})  # "remember" is of format 1
    cached = schedule.get("cache_features", schedule.get("remember"))
    # many vectors of a value are made of all its tokens, not of their mean
    one_vector = getattr(encoder, "multi_vector", None) is None
    if not cached or (cached == "mean" and not one_vector):
        return dataset
    return reuse_features(dataset, encoder, device, pooled=cached == "mean")


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
    cached = reuse_features(dataset, encoder, device, pooled=pooled)
    if not isinstance(cached, CachedFeatures):
        raise AmodalError(
            "there is no frozen backbone whose features could be cached: "
            "give one for each field, --backbone FIELD=SPEC"
        )
    cached.fill(progress)
    return cached


def _store(
    dataset: Dataset, field: str, backbone: Backbone, device: torch.device, pooled: bool
) -> FeatureStore:
    """Where the features of a field are cached: a folder for all that decides them."""
    description = {
        "backbone": backbone.name,
        "weights": digest(backbone.body),
        "field": {field: config(dataset.fields[field])},
        "data": dataset.fingerprint,
        "records": len(dataset),
        "pooled": pooled,
    }
    files = files_stamp(dataset, field)
    extractor = FeatureExtractor(backbone.body.to(device), device, pooled)
    described = description | ({"files": files} if files else {})
    return FeatureStore(cache() / "features", described, len(dataset), extractor)


def files_stamp(dataset: Dataset, field: str) -> str:
    """A hash of the files that cells of a field name, "" where there are none.

    The fingerprint of a folder is of its files already, that of a table of the table alone.
    """
    reader = dataset.reader
    while reader.reader is not None:
        reader = reader.reader
    rows = np.flatnonzero(dataset.present(field)).tolist()
    # a column of bytes is not read through: that would take as long as training
    probes = rows[:: max(1, len(rows) // PROBES)]
    if isinstance(reader, FolderReader) or not any(_file(dataset, i, field) for i in probes):
        return ""
    return stamp_files([file for i in rows if (file := _file(dataset, i, field)) is not None])


def _file(dataset: Dataset, i: int, field: str) -> AnyPath | None:
    """The file that a cell names, None for other cells and for those that cannot be read."""
    try:
        cell = dataset.cell(i, field)
    except BadValue:
        return None
    return cell if isinstance(cell, (Path, Remote)) else None
