"""Labels as numbers."""

from __future__ import annotations

import numpy as np
import torch

from amodal.core import Column


def class_numbers(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Number the classes of a label.

    Args:
        values: (n,) as `Dataset.label` returns them.

    Returns:
        (n,) int64 classes, -1 where unknown, and their names in order. Of a label of numbers (n,)
        float32, NaN where unknown, and no names.
    """
    if values.dtype != object:
        return values.astype(np.float32), []
    names = sorted({v for v in values if v is not None})
    number = {name: i for i, name in enumerate(names)}
    return np.array([number.get(v, -1) for v in values], dtype=np.int64), names


def known_numbers(values: np.ndarray) -> Column:
    """Of (n,) class numbers or amounts those that are known, as a column of a batch."""
    rows = np.flatnonzero(values >= 0 if values.dtype == np.int64 else ~np.isnan(values))
    return Column(torch.from_numpy(values[rows]), torch.from_numpy(rows))
