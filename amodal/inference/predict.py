"""Predictions of labels by a method itself, not by a head on the features of its encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import Column
from amodal.data import Dataset
from amodal.inference.forward_passes import in_order
from amodal.methods.contract import Method
from amodal.nn.heads.supervised import Target, predictions


@dataclass(frozen=True)
class MethodPredictor:
    """Args: method: has `predict` (see `amodal.core.protocols.Predicts`); targets: what its outputs
    mean."""

    method: Method
    targets: tuple[Target, ...]

    @torch.no_grad()
    def on(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        *,
        batch: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> Column:
        """(N, outputs) on the CPU, of those of the records at `indices` that it can predict,
        numbered from zero."""
        device, parts, sizes = next(self.method.parameters()).device, [], []
        for part in in_order(dataset, indices, batch):
            parts.append(self.method.predict(part.to(device)).to("cpu"))
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
        return Column.stack(parts, sizes)

    def predictions(self, outputs: Column) -> dict[str, Tensor]:
        """See `amodal.nn.heads.supervised.predictions`."""
        return predictions(self.targets, outputs)
