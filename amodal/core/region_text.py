"""A text that stands on a region of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegionText:
    """A text, or a part of one, and its region.

    Args:
        row: Of the batch.
        text: What stands there.
        box: Left, top, right and bottom, as shares of what the encoder sees of the picture.
        score: How well it fits, the higher the better.
    """

    row: int
    text: str
    box: tuple[float, float, float, float]
    score: float


WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of the whole picture."""
