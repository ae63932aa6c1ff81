"""Running an encoder again over records that it has seen: with some of their sources only, or with
the values of one changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from amodal.core import Batch, Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data import Dataset, Loader
from amodal.modalities import Modality

Change = Callable[[Modality, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(modality, decoded value, the value of another record, generator of the record) -> the value to
be read instead."""


class evaluating:
    """Evaluation mode inside, the former mode afterwards."""

    def __init__(self, encoder):
        self.encoder = encoder

    def __enter__(self):
        self.training = getattr(self.encoder, "training", False)
        self.encoder.eval()

    def __exit__(self, *_):
        self.encoder.train(self.training)


def in_order(
    dataset: Dataset, indices: np.ndarray, batch: int, kind: type[Loader] = Loader
) -> Loader:
    with warnings.catch_warnings():
        # that a field is missing in all of these records is worth a word in training only
        warnings.simplefilter("ignore")
        return kind(dataset, indices, batch=batch, shuffle=False)


def kept(embeddings: Embeddings) -> Embeddings:
    """As float32 on the CPU."""
    columns = {
        s: Column(c.values.float().cpu(), c.rows.cpu()) for s, c in embeddings.columns.items()
    }
    return Embeddings(columns, embeddings.size)


@torch.no_grad()
def _aligned(encoder, loader: Loader, device, only: Callable[[Batch], Batch]) -> Embeddings:
    with evaluating(encoder):
        return Embeddings.stack([kept(encoder(only(part).to(device))) for part in loader])


def re_fuser(
    encoder, dataset: Dataset, indices: np.ndarray, batch: int, device
) -> Callable[[Sequence[str]], Column]:
    """Runs the network again over the same records with some of their sources; each set of sources
    once."""
    made: dict[tuple[str, ...], Column] = {}

    def re_fuse(names: Sequence[str]) -> Column:
        key = tuple(sorted(names))
        if key not in made:
            loader = in_order(dataset, indices, batch)
            made[key] = _aligned(encoder, loader, device, lambda part: part.only(*names))[FUSED]
        return made[key]

    return re_fuse


@dataclass(frozen=True)
class PerturbedForward:
    """Runs the network again over the same records with the values of one field changed.

    joint: some vectors are made of several sources, so that all of them have to be read again and
    not the changed one alone.
    """

    encoder: object
    dataset: Dataset
    indices: np.ndarray
    batch: int
    device: object
    joint: bool

    @property
    def fields(self) -> dict[str, Modality]:
        return self.dataset.fields

    def __call__(self, field: str, change: Change, rows: Sequence[int]) -> Embeddings:
        """Aligned vectors of the records at `rows` (ascending, of all records here), numbered from
        zero: of `field`, or of all sources and `fused` where the network is joint."""
        seen = self.dataset if self.joint else self.dataset.select([field])
        loader = in_order(seen, self.indices[np.asarray(rows)], self.batch, _Changed)
        loader.field, loader.change = field, change
        return _aligned(self.encoder, loader, self.device, lambda part: part)


class _Changed(Loader):
    """Values of `field` as `change` makes them, from the record's seed; the other record is one of
    the same batch."""

    field: str
    change: Change

    def _column(self, field, source, view, values, rows, seeds):
        if field == self.field:
            modality, given = self.dataset.fields[field], values
            values = []
            for i, (value, seed) in enumerate(zip(given, seeds[rows].tolist())):
                rng = np.random.default_rng(seed % 2**63)
                other = given[(i + 1 + rng.integers(max(len(given) - 1, 1))) % len(given)]
                values.append(self.change(modality, value, other, rng))
        return super()._column(field, source, view, values, rows, seeds)
