"""Phrase grounding: whether the score map of a phrase is high inside the phrase's box.

Maps are (n, rows, columns) scores of the patches of an image, one map for each phrase. Boxes are
(n, 4), left, top, right and bottom in pixels of a square image. A patch that is half inside the box
counts half, which equals counting the pixels of the map enlarged to the image.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(boxes_N4: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """How much of each patch is inside the box.

    Args:
        boxes_N4: Boxes in pixels.
        side: Of the image, in pixels.
        grid: Rows and columns of patches.

    Returns:
        (n, rows, columns) float64 shares.
    """
    left, top, right, bottom = boxes_N4.double().T[:, :, None]

    def along(low: Tensor, high: Tensor, count: int) -> Tensor:
        size = side / count
        edge = torch.arange(count, device=low.device) * size
        return (torch.minimum(high, edge + size) - torch.maximum(low, edge)).clamp(min=0) / size

    return along(top, bottom, grid[0])[:, :, None] * along(left, right, grid[1])[:, None, :]


def pointing(maps: Tensor, cover: Tensor) -> Tensor:
    """The pointing game on patches: whether the highest patch touches the box.

    Zhang et al. 2016, arXiv:1608.00507. Chance is `(cover > 0).mean((1, 2))`.

    Args:
        maps: (n, rows, columns) scores.
        cover: See `coverage`.

    Returns:
        (n,) 0 or 1, float64.
    """
    best = maps.flatten(1).argmax(1, keepdim=True)
    return (cover.flatten(1).gather(1, best).squeeze(1) > 0).double()


def mass_inside(weights: Tensor, cover: Tensor) -> Tensor:
    """The share of the weights that lies inside the box. Chance is `cover.mean((1, 2))`.

    Args:
        weights: (n, rows, columns), not negative and not all zero.
        cover: See `coverage`.

    Returns:
        (n,) float64.
    """
    weights = weights.double()
    return (weights * cover).sum((1, 2)) / weights.sum((1, 2))


def contrast_to_noise(maps: Tensor, cover: Tensor) -> Tensor:
    """(mean inside - mean outside) / sqrt(variance inside + variance outside) of the map's pixels.

    Boecking et al. 2022, arXiv:2204.09817, 4.2, take its absolute value, which also rewards a map
    that points away from the box. Here it is signed.

    Args:
        maps: (n, rows, columns) scores.
        cover: See `coverage`.

    Returns:
        (n,) float64, NaN where the box covers everything or nothing.
    """
    maps = maps.double()

    def moments(share: Tensor) -> tuple[Tensor, Tensor]:
        total = share.sum((1, 2))
        mean = (maps * share).sum((1, 2)) / total
        return mean, ((maps - mean[:, None, None]) ** 2 * share).sum((1, 2)) / total

    (inside, a), (outside, b) = moments(cover), moments(1 - cover)
    return (inside - outside) / (a + b).clamp(min=1e-12).sqrt()


def overlap(maps: Tensor, cover: Tensor, threshold: float) -> Tensor:
    """Intersection over union of the box and the area where the map is above a threshold, in
    pixels.

    Mean IoU averages thresholds.

    Args:
        maps: (n, rows, columns) scores.
        cover: See `coverage`.
        threshold: Of the scores.

    Returns:
        (n,) float64.
    """
    chosen = (maps > threshold).double()
    common = (chosen * cover).sum((1, 2))
    return common / (chosen.sum((1, 2)) + cover.sum((1, 2)) - common)
