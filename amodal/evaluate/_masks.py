"""How well a mask fits another, over the pixels of all pictures together."""

from __future__ import annotations

from torch import Tensor


def f1_and_iou(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    """Harmonic mean of precision and recall, and intersection over union, of the pixels that are true. guess, truth: bool of one
    shape. Both are 1 where neither has a pixel. Raises ValueError for unequal shapes."""
    if guess.shape != truth.shape:
        raise ValueError(f"masks of one shape are compared, not {tuple(guess.shape)} and {tuple(truth.shape)}")
    hit, either = int((guess & truth).sum()), int((guess | truth).sum())
    return (2 * hit / (hit + either), hit / either) if either else (1.0, 1.0)
