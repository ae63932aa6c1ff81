"""Values of patches on the picture that they are of."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import grid_sample

from amodal.maps.folder import palette
from amodal.modalities.shared.frames import Frame
from amodal.modalities.shared.rasters import UNKNOWN

OVERLAY = 0.55
"""Share of a colour that is laid over a picture."""


def on_picture(values_KRC: np.ndarray, frame: Frame, height: int, width: int) -> np.ndarray:
    """Values between the middles of patches, bilinear, at every pixel of a picture.

    Args:
        values_KRC: Layers over a grid of patches.
        frame: Which part of the picture the grid covers.
        height: Of the picture.
        width: Of the picture.

    Returns:
        (K, height, width) float32, NaN outside of the frame.
    """
    y = (torch.arange(height) + 0.5 - frame.top) / frame.height
    x = (torch.arange(width) + 0.5 - frame.left) / frame.width
    place = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], 2).float()
    laid = grid_sample(
        torch.from_numpy(np.ascontiguousarray(values_KRC, dtype=np.float32))[None],
        place[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0].numpy()
    outside = ((y < 0) | (y > 1)).numpy()[:, None] | ((x < 0) | (x > 1)).numpy()
    laid[:, outside] = np.nan
    return np.asarray(laid)


def label_map(laid_KHW: np.ndarray, threshold: float | None) -> np.ndarray:
    """The layer of the largest value of each pixel.

    Args:
        laid_KHW: See `on_picture`.
        threshold: Of a single layer, above which a pixel is 1, else 0; of more, below which the
            largest value is too low for a label.

    Returns:
        (H, W) uint8, `UNKNOWN` where there is no value.
    """
    known = np.isfinite(laid_KHW).all(0)
    if len(laid_KHW) == 1:
        chosen = laid_KHW[0] > (0.0 if threshold is None else threshold)
    else:
        filled = np.where(known, laid_KHW, -np.inf)
        chosen = filled.argmax(0)
        known &= True if threshold is None else filled.max(0) > threshold
    return np.where(known, chosen, UNKNOWN).astype(np.uint8)


def shares(label_HW: np.ndarray, count: int) -> np.ndarray:
    """(count,) share of the known pixels that has each label, NaN without a known pixel."""
    known = label_HW[label_HW != UNKNOWN]
    counts = np.bincount(known, minlength=count)[:count]
    return counts / len(known) if len(known) else np.full(count, np.nan)


def overlay(picture_HW3: np.ndarray, label_HW: np.ndarray, *, clear: int | None) -> np.ndarray:
    """Labels in colour over a grey picture.

    Args:
        picture_HW3: uint8.
        label_HW: Labels.
        clear: A label that is left as the picture is, None for none.
    """
    grey = picture_HW3.mean(2, keepdims=True).repeat(3, 2)
    mixed = OVERLAY * palette()[label_HW] + (1 - OVERLAY) * grey
    plain = (label_HW == UNKNOWN) | (label_HW == (-1 if clear is None else clear))
    return np.where(plain[..., None], picture_HW3, mixed).round().clip(0, 255).astype(np.uint8)


def in_colours(
    picture_HW3: np.ndarray, value_HW: np.ndarray, low: float, high: float
) -> np.ndarray:
    """One layer as colours from dark to bright over a grey picture.

    Args:
        picture_HW3: uint8.
        value_HW: The layer, NaN outside of it.
        low: Value of the darkest colour.
        high: Value of the brightest.
    """
    import matplotlib

    scaled = np.nan_to_num((value_HW - low) / max(high - low, 1e-12)).clip(0, 1)
    colour = matplotlib.colormaps["inferno"](scaled)[..., :3] * 255
    grey = picture_HW3.mean(2, keepdims=True).repeat(3, 2)
    mixed = 0.7 * colour + 0.3 * grey
    return np.where(np.isnan(value_HW)[..., None], picture_HW3, mixed).round().astype(np.uint8)


def components(laid_3HW: np.ndarray, low_3: np.ndarray, high_3: np.ndarray) -> np.ndarray:
    """Three principal components as red, green and blue, white outside; (H, W, 3) uint8."""
    low, high = low_3[:, None, None], high_3[:, None, None]
    scaled = ((laid_3HW - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return np.asarray(np.nan_to_num(scaled, nan=1.0).transpose(1, 2, 0) * 255).round().astype("u1")
