"""Predictions of labels by a method itself, not by a head on the features of its encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column
from amodal.core.protocols import Predicts, PredictsByField
from amodal.data import Dataset
from amodal.inference.forward_passes import sequential_loader
from amodal.methods.contract import Method
from amodal.nn.heads.supervised import Target, predictions


@dataclass(frozen=True)
class MethodPredictor:
    """Predicts labels by a whole method.

    Args:
        method: One that has `predict`, see `amodal.core.protocols.Predicts`.
        targets: What its outputs mean.
    """

    method: Method
    targets: tuple[Target, ...]

    @torch.no_grad()
    def outputs(
        self,
        dataset: Dataset,
        indices: Sequence[int] | np.ndarray,
        *,
        batch: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> Column:
        """Compute the method's outputs for records.

        Args:
            dataset: Where the records are.
            indices: Which records.
            batch: Records computed at once.
            progress: Called with the number of records just done.

        Returns:
            (N, outputs) on the CPU, for the records that the method can predict; rows count from
            zero.

        Raises:
            AmodalError: If the method has no `predict`.
        """
        if not isinstance(self.method, Predicts):
            raise AmodalError(f"{type(self.method).__name__} does not predict labels")
        predict = self.method.predict
        return self._stacked(lambda part: {"": predict(part)}, dataset, indices, batch, progress)[
            ""
        ]

    @torch.no_grad()
    def outputs_by_field(
        self,
        dataset: Dataset,
        indices: Sequence[int] | np.ndarray,
        *,
        batch: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> dict[str, Column]:
        """As `outputs`, before any field ("") and after each.

        Raises:
            AmodalError: If the method reads its fields at once.
        """
        if not isinstance(self.method, PredictsByField):
            raise AmodalError(
                f"{type(self.method).__name__} reads all fields of a record at once; only a method "
                "that reads one after another, such as multimodn, predicts after each"
            )
        by_field = self.method.predict_by_field
        return self._stacked(by_field, dataset, indices, batch, progress)

    def _stacked(
        self,
        predict: Callable[[Batch], dict[str, Column]],
        dataset: Dataset,
        indices: Sequence[int] | np.ndarray,
        batch: int,
        progress: Callable[[int], object] | None,
    ) -> dict[str, Column]:
        """The columns of all batches on the CPU, one after another."""
        device = next(self.method.parameters()).device
        columns: dict[str, list[Column]] = {}
        sizes = []
        for part in sequential_loader(dataset, indices, batch):
            for name, column in predict(part.to(device)).items():
                columns.setdefault(name, []).append(column.to("cpu"))
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
        return {name: Column.stack(parts, sizes) for name, parts in columns.items()}

    def predictions(self, outputs: Column) -> dict[str, Tensor]:
        """See `amodal.nn.heads.supervised.predictions`."""
        return predictions(self.targets, outputs)
