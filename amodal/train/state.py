"""What a checkpoint holds, and what a method that looks at all records changes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn

from amodal.core import Batch, Column, Embeddings
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import ema_update, frozen_copy
from amodal.train import distributed


class Training(nn.Module):
    """All that a checkpoint holds: the method, the average of its encoder's weights if one is made,
    and the groups that the records to train on fell into in the last refresh, -1 for a record that
    is left out, and everywhere for no groups."""

    def __init__(self, method: Method, average: float, records: int = 0):
        super().__init__()
        self.method = method
        self.average = frozen_copy(method.encoder) if average else None
        if records:
            self.register_buffer("groups", torch.full((records,), -1))

    @property
    def encoder(self) -> nn.Module:
        """The encoder that survives."""
        return self.average if self.average is not None else self.method.encoder

    @property
    def grouped(self) -> np.ndarray | None:
        groups = getattr(self, "groups", None)
        return None if groups is None or (groups < 0).all() else groups.cpu().numpy()


def refresh(training: Training, stage: int, see: Callable[[], Embeddings]) -> None:
    """Let the method look at all records before a stage.

    Processes may round what they see differently: the first decides.
    """
    groups = training.method.refresh(stage, see)
    training.groups.copy_(torch.as_tensor(groups) if groups is not None else torch.tensor(-1))
    if training.average is not None:  # of what may be another network from here on
        ema_update(training.average, training.method.encoder, 0.0)
    distributed.same_everywhere(training)


@torch.no_grad()
def embed_all(
    method: Method,
    records: Iterable[Batch],
    device: torch.device,
    precision: AbstractContextManager,
) -> Embeddings:
    """The encoder's features of all records to train on, float32 at least, and as `label/NAME` the
    labels that the records bring along. They are on the CPU, where there is room for all."""
    method.eval()
    parts = []
    for batch in records:
        with precision:
            seen = method.encoder.features(batch.to(device))
        columns = {
            s: Column(
                c.values.to("cpu", torch.promote_types(c.values.dtype, torch.float32)), c.rows.cpu()
            )
            for s, c in seen.columns.items()
        }
        labels = {f"label/{name}": column for name, column in batch.labels.items()}
        parts.append(Embeddings(columns | labels, batch.size))
    method.train()
    return Embeddings.stack(parts)
