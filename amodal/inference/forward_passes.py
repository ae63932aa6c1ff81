"""Forward passes of an encoder over the records of a dataset.

Beside the plain pass there are two that evaluation needs: with a subset of the sources, and with
perturbed values of one field.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from amodal.core import Batch, Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset, Loader
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.train.cache_features import CachedFeatures

AnyEncoder = Encoder | Ensemble
"""What embeds batches."""

Device = torch.device | str

Perturbation = Callable[[Modality, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(modality, decoded value, the value of another record, generator of the record) -> the value that
is embedded instead."""


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the former mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def sequential_loader(dataset: Dataset, indices: Sequence[int] | np.ndarray, batch: int) -> Loader:
    """The records at `indices` in that order, once, not augmented.

    Args:
        dataset: Where the records are.
        indices: (N,) which records.
        batch: Rows of a batch; the last one may be shorter.
    """
    if isinstance(dataset, CachedFeatures):
        dataset = dataset.reading(indices)
    few = [m.at_once for m in dataset.fields.values() if m.at_once]
    with _no_warnings():
        return Loader(dataset, indices, batch=min([batch, *few]), shuffle=False)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """That a field is missing in all of these records is worth a warning in training only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_cpu(embeddings: Embeddings) -> Embeddings:
    """The same vectors as float32 on the CPU."""
    columns = {
        s: Column(vectors_of(c).float().cpu(), c.rows.cpu()) for s, c in embeddings.columns.items()
    }
    return Embeddings(columns, embeddings.size)


@torch.no_grad()
def _embed(
    encoder: AnyEncoder,
    loader: Loader,
    device: Device,
    select: Callable[[Batch], Batch],
    embed: Callable[[Batch], Embeddings] | None = None,
) -> Embeddings:
    embed = encoder if embed is None else embed
    with eval_mode(encoder):
        return Embeddings.stack([to_cpu(embed(select(part).to(device))) for part in loader])


def re_fuser(
    encoder: AnyEncoder, dataset: Dataset, indices: np.ndarray, batch: int, device: Device
) -> Callable[[Sequence[str]], Column]:
    """A function that fuses other subsets of the sources of the same records.

    Args:
        encoder: One with a joint trunk, whose fused vector is no mean of those of the sources.
        dataset: Where the records are.
        indices: (N,) which records.
        batch: Records embedded at once.
        device: Where the encoder is.

    Returns:
        Names of sources -> their fused vectors. Each subset costs one pass over the records and is
        cached.
    """
    cache: dict[tuple[str, ...], Column] = {}

    def re_fuse(names: Sequence[str]) -> Column:
        key = tuple(sorted(names))
        if key not in cache:
            loader = sequential_loader(dataset, indices, batch)
            cache[key] = _embed(encoder, loader, device, lambda part: part.only(*names))[FUSED]
        return cache[key]

    return re_fuse


@dataclass(frozen=True)
class PerturbedForward:
    """Embeds the same records with the values of one field perturbed.

    Args:
        encoder: What embeds.
        dataset: Where the records are.
        indices: (N,) which records.
        batch: Records embedded at once.
        device: Where the encoder is.
        joint: Whether some vectors are made of several sources, so that all sources have to be
            embedded anew and not the perturbed one alone.
    """

    encoder: AnyEncoder
    dataset: Dataset
    indices: np.ndarray
    batch: int
    device: Device
    joint: bool

    @property
    def fields(self) -> dict[str, Modality]:
        """Field -> its modality."""
        return self.dataset.fields

    def __call__(
        self,
        field: str,
        perturbation: Perturbation,
        rows: Sequence[int],
        *,
        features: bool = False,
    ) -> Embeddings:
        """Embed records with perturbed values.

        Args:
            field: The field that is perturbed.
            perturbation: Makes each new value. It draws from a generator of the record's own.
            rows: (n,) which of the N records, ascending.
            features: What the trunk gives, before the heads.

        Returns:
            Aligned vectors, or features, with rows 0 to n - 1: of `field`, or of all sources and
            `fused` where the encoder is joint.
        """
        dataset = self.dataset if self.joint else self.dataset.select([field])
        with _no_warnings():
            loader = _PerturbedLoader(
                dataset,
                self.indices[np.asarray(rows)],
                batch=self.batch,
                field=field,
                perturbation=perturbation,
            )
        embed = self.encoder.features if features else self.encoder
        return _embed(self.encoder, loader, self.device, lambda part: part, embed)


class _PerturbedLoader(Loader):
    """Perturbs the values of `field`. The other record is one of the same batch."""

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        *,
        batch: int,
        field: str,
        perturbation: Perturbation,
    ):
        super().__init__(dataset, indices, batch=batch, shuffle=False)
        self.field, self.perturbation = field, perturbation

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
        if field == self.field:
            values = self._perturbed(values, seeds[rows].tolist())
        return super()._column(field, source, view, values, rows, seeds, step)

    def _perturbed(self, values: list[np.ndarray], seeds: list[int]) -> list[np.ndarray]:
        modality, count = self.dataset.fields[self.field], len(values)
        perturbed = []
        for i, (value, seed) in enumerate(zip(values, seeds)):
            # row seeds may be negative, which numpy refuses
            rng = np.random.default_rng(seed % 2**63)
            # never the record itself, unless it is the only one
            other = values[(i + 1 + rng.integers(max(count - 1, 1))) % count]
            perturbed.append(self.perturbation(modality, value, other, rng))
        return perturbed
