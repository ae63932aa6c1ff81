"""Pictures as they came, and which part of them a value shows: to lay a map of a value on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amodal.modalities.shared import pixels
from amodal.modalities.shared.base import Modality, Raw


@dataclass(frozen=True)
class Frame:
    """The part of a picture that a value shows, in pixels of the picture.

    Args:
        top: Of the part; below 0 where a value has bars around the picture.
        left: The same across.
        height: Of the part.
        width: Of the part.
    """

    top: float
    left: float
    height: float
    width: float


def whole_picture(modality: Modality, raw: Raw, most: int) -> tuple[np.ndarray, Frame]:
    """A picture as it came, and the part of it that its value shows.

    Args:
        modality: Of layout "grid".
        raw: The picture, as the data holds it.
        most: Pixels of the longer side; a larger picture is shrunk to it.

    Returns:
        (C, H, W) as `Modality.decode` gives them, and its frame. Of a modality that does not say
        how it fits pictures into values it is the value.

    Raises:
        BadValue: If it cannot be read.
    """
    fit, channels = getattr(modality, "fit", ""), getattr(modality, "channels", 0)
    if not fit or not channels:
        value = modality.decode_finite(raw)
        return value, Frame(0, 0, *value.shape[1:])
    picture = pixels.with_channels(pixels.read(raw), channels)
    _, height, width = pixels.shape(picture)
    share = min(1.0, most / max(height, width))
    shape = max(1, round(height * share)), max(1, round(width * share))
    return pixels.resample(picture, *shape, (0, 0, width, height)), _frame(fit, *shape)


def _frame(fit: str, height: int, width: int) -> Frame:
    if fit not in ("crop", "pad"):
        return Frame(0, 0, height, width)
    side = min(height, width) if fit == "crop" else max(height, width)
    return Frame((height - side) / 2, (width - side) / 2, side, side)
