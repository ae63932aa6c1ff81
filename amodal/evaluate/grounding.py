"""Phrase grounding: whether the map that a phrase lays over an image is high where the phrase's box
is.

Maps are (n, rows, columns) scores of the patches of an image, one map for each phrase; boxes (n, 4)
left, top, right, bottom in pixels of a square image. A patch that is half in the box counts half,
which is what every pixel of a map blown up to the image would give.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(boxes_N4: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """(n, rows, columns) float64: the share of each patch that lies in the box. side: of the image
    in pixels."""
    left, top, right, bottom = boxes_N4.double().T[:, :, None]

    def along(low: Tensor, high: Tensor, count: int) -> Tensor:
        size = side / count
        edge = torch.arange(count, device=low.device) * size
        return (torch.minimum(high, edge + size) - torch.maximum(low, edge)).clamp(min=0) / size

    return along(top, bottom, grid[0])[:, :, None] * along(left, right, grid[1])[:, None, :]


def pointing(maps: Tensor, cover: Tensor) -> Tensor:
    """(n,) whether the highest patch touches the box (Zhang et al. 2016, arXiv:1608.00507, the
    pointing game, on patches). Chance is the share of patches that touch it, `(cover > 0).mean((1,
    2))`."""
    best = maps.flatten(1).argmax(1, keepdim=True)
    return (cover.flatten(1).gather(1, best).squeeze(1) > 0).double()


def mass_inside(weights: Tensor, cover: Tensor) -> Tensor:
    """(n,) share of the weights (not negative, not all zero) that lies in the box. Chance is
    `cover.mean((1, 2))`."""
    weights = weights.double()
    return (weights * cover).sum((1, 2)) / weights.sum((1, 2))


def contrast_to_noise(maps: Tensor, cover: Tensor) -> Tensor:
    """(n,) (mean inside - mean outside) / sqrt(variance inside + variance outside) of the map's
    pixels.

    Boecking et al. 2022, arXiv:2204.09817, 4.2, take its absolute value, which also rewards a map
    that points away from the box; the sign is kept here. NaN where the box covers everything or
    nothing.
    """
    maps = maps.double()

    def moments(share: Tensor) -> tuple[Tensor, Tensor]:
        total = share.sum((1, 2))
        mean = (maps * share).sum((1, 2)) / total
        return mean, ((maps - mean[:, None, None]) ** 2 * share).sum((1, 2)) / total

    (inside, a), (outside, b) = moments(cover), moments(1 - cover)
    return (inside - outside) / (a + b).clamp(min=1e-12).sqrt()


def overlap(maps: Tensor, cover: Tensor, threshold: float) -> Tensor:
    """(n,) intersection over union of the box and of where the map is above `threshold`, in pixels.
    Mean IoU averages thresholds."""
    chosen = (maps > threshold).double()
    common = (chosen * cover).sum((1, 2))
    return common / (chosen.sum((1, 2)) + cover.sum((1, 2)) - common)
