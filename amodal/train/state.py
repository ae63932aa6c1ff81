"""What a checkpoint holds, and how a refresh changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings
from amodal.core.embeddings import vectors
from amodal.core.protocols import Refreshes
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import ema_update, frozen_copy
from amodal.nn.encoder import Encoder
from amodal.train import distributed


class Records(Protocol):
    """All training records in batches, in order and not augmented, such as a `Loader`."""

    @property
    def indices(self) -> npt.NDArray[np.int64]: ...

    def __iter__(self) -> Iterator[Batch]: ...


class TrainingState(nn.Module):
    """All tensors of a checkpoint.

    Args:
        method: What is trained.
        average: Momentum of an average of the encoder's weights; 0 for none.
        records: Number of training records of a method that may group them, else 0.

    Attributes:
        groups: (records,) int64, the group of each record since the last refresh. -1 for a record
            that is left out; -1 everywhere for no groups.
    """

    groups: Tensor

    def __init__(self, method: Method, average: float, records: int = 0):
        super().__init__()
        self.method = method
        # the name is a key of checkpoints
        self.average = frozen_copy(method.encoder) if average else None
        self.refreshes = bool(records)
        if records:
            self.register_buffer("groups", torch.full((records,), -1))

    @property
    def encoder(self) -> Encoder:
        """The encoder to save."""
        return self.average if self.average is not None else self.method.encoder

    @property
    def record_groups(self) -> npt.NDArray[np.int64] | None:
        if not self.refreshes or (self.groups < 0).all():
            return None
        groups: npt.NDArray[np.int64] = self.groups.cpu().numpy()
        return groups


def refresh(training: TrainingState, stage: int, embed: Callable[[], Embeddings]) -> None:
    """Let the method look at all records before a stage.

    Ranks may round the features differently, so the first rank decides for all.

    Args:
        embed: Computes the features of all records.
    """
    method = training.method
    assert isinstance(method, Refreshes)
    groups = method.refresh(stage, embed)
    training.groups.copy_(torch.as_tensor(groups) if groups is not None else torch.tensor(-1))
    if training.average is not None:
        # the refresh may have replaced the network, so the average starts over
        ema_update(training.average, training.method.encoder, 0.0)
    distributed.broadcast_module(training)


@torch.no_grad()
def embed_all(
    method: Method,
    records: Records,
    device: torch.device,
    precision: AbstractContextManager[object],
) -> Embeddings:
    """The encoder's features of all training records, with their labels.

    They are on the CPU, which has room for all of them, and at least float32.

    Returns:
        source -> (N, D), and `label/NAME` -> the labels that the batches have.
    """
    method.eval()
    parts = []
    for batch in records:
        with precision:
            features = method.encoder.features(batch.to(device))
        columns = {}
        for source, column in features.columns.items():
            values = vectors(column)
            dtype = torch.promote_types(values.dtype, torch.float32)
            columns[source] = Column(values.to("cpu", dtype), column.rows.cpu())
        labels = {f"label/{name}": column for name, column in batch.labels.items()}
        parts.append(Embeddings(columns | labels, batch.size))
    method.train()
    return Embeddings.stack(parts)
