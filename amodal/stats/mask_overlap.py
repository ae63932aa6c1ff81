"""Overlap of masks, over the pixels of all pictures together.

Ours: sums over torch masks, where scikit-learn's scores take flat arrays of numpy, label by label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError


def f1_and_iou(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    """F1 and intersection over union of the true pixels. Both are 1 where neither mask has a pixel.

    Args:
        guess: bool.
        truth: bool of the same shape.

    Raises:
        ValueError: For unequal shapes.
    """
    if guess.shape != truth.shape:
        raise ValueError(
            f"masks of one shape are compared, not {tuple(guess.shape)} and {tuple(truth.shape)}"
        )
    hit, either = int((guess & truth).sum()), int((guess | truth).sum())
    return (2 * hit / (hit + either), hit / either) if either else (1.0, 1.0)


def mean_iou(guess: Tensor, truth: Tensor, classes: int) -> float:
    """Mean intersection over union of the classes that occur in guess or truth.

    Args:
        guess: Classes 0 to classes - 1.
        truth: The same, of one shape. Pixels below 0 do not count.
        classes: How many.

    Raises:
        ValueError: For unequal shapes.
        AmodalError: If no pixel has a known class.
    """
    if guess.shape != truth.shape:
        raise ValueError(
            f"maps of one shape are compared, not {tuple(guess.shape)} and {tuple(truth.shape)}"
        )
    known = truth >= 0
    if not known.any():
        raise AmodalError("no pixel has a known class, so there is nothing to compare")
    pairs = truth[known] * classes + guess[known]
    table = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    hit, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return float((hit[either > 0] / either[either > 0]).mean())
