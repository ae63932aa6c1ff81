"""What an array of pixels is by its shape and its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.modalities.shared.base import BadValue

LARGEST = 255
"""Of eight bits."""
FAR = 20
"""Deviations of a field by which the pixels of its own pictures do not differ from its mean, in the
root of the mean square. Of numbers up to 255 in a field up to 1 it is 100 and more."""
COLOURS = (1, 3, 4)
"""Lengths of a last axis that is the channels, whatever the field has."""


def is_one_picture(shape: Sequence[int], channels: int) -> bool:
    """Whether an array of this shape is one picture, and not grey ones one after the other.

    Args:
        shape: of the array.
        channels: of the field.
    """
    if len(shape) != 3:
        return len(shape) == 2
    return shape[2] in (*COLOURS, channels) or channels > 1 and shape[0] == channels


def check_unit(planes: object, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise BadValue for a picture of numbers up to 255 in a field whose numbers go up to 1.

    Args:
        planes: (C, H, W). What has eight bits is in the unit of the field.
        mean: (C,) of the field, () where it is not measured.
        std: (C,) as `mean`.
    """
    if not isinstance(planes, np.ndarray) or planes.dtype == np.uint8:
        return
    # these bounds hold for whatever lies between 0 and 1
    if not (mean and std) or not (0 <= min(mean) <= max(mean) <= 1 and max(std) <= 0.5):
        return
    low, high = float(planes.min()), float(planes.max())
    if not (0 <= low and 1 < high <= LARGEST):
        return
    centre, scale = (np.asarray(s, np.float32).reshape(-1, 1, 1) for s in (mean, std))
    if float(np.square((planes - centre) / np.maximum(scale, 1e-3)).mean()) > FAR**2:
        raise BadValue(
            f"its numbers go from {low:.3g} to {high:.3g}, and those of this field from 0 to 1, to "
            "which bytes are scaled; other numbers stay as they are: divide them by 255, or give "
            "bytes, as in array.astype(numpy.uint8)"
        )


def unit(value: np.ndarray) -> int:
    """The value of 1 on the scale of a field."""
    return LARGEST if value.dtype == np.uint8 else 1
