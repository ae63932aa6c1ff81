"""Predictions of labels as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from amodal.core import Column
from amodal.inference.heads import AnyHead
from amodal.nn.heads.supervised import Target


@dataclass(frozen=True)
class Predictions:
    """Predictions of some of n records.

    Args:
        values: Target -> (predicted, …).
        predicted: (n,) which records have one.
    """

    values: Mapping[str, Tensor]
    predicted: npt.NDArray[np.bool_]

    def columns(self, target: Target) -> dict[str, pa.Array]:
        """The columns of a target, null for records without a prediction."""
        values, missing = self.values[target.name].numpy(), ~self.predicted
        whole = np.zeros((len(missing), *values.shape[1:]), dtype=np.float32)
        whole[self.predicted] = values
        if target.kind == "classes":
            names = np.array(target.classes)[whole.argmax(1)]
            probabilities = {
                f"{target.name}={c}": pa.array(whole[:, i], mask=missing)
                for i, c in enumerate(target.classes)
            }
            return {target.name: pa.array(names.tolist(), mask=missing)} | probabilities
        hazard = target.kind == "survival"
        name = f"log hazard of {target.labels[1]}" if hazard else target.name
        return {name: pa.array(whole, mask=missing)}


def prediction_columns(head: AnyHead, outputs: Column, size: int) -> dict[str, pa.Array]:
    """The columns of a table of predictions.

    Args:
        head: Made the outputs.
        outputs: (n, outputs).
        size: Records of the table; those without outputs have nulls.

    Returns:
        Name -> a column: each target, and of classes the probability of each, `TARGET=CLASS`.
    """
    predicted = np.zeros(size, dtype=bool)
    predicted[outputs.rows.numpy()] = True
    result = Predictions(head.predictions(outputs), predicted)
    columns: dict[str, pa.Array] = {}
    for target in head.targets:
        columns |= result.columns(target)
    return columns
