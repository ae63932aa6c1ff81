"""Image augmentations as linear maps along sides and across channels."""

from __future__ import annotations

from functools import cache

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MAX_DENSE_SIDE, BLOCK_ROWS = 64, 32
"""Sides up to which a map is multiplied out as it is, and rows of larger ones that go together."""


def resampling_matrix(
    n_in: int, low: float, high: float, n_out: int, *, sigma: float = 0.0, flip: bool = False
) -> np.ndarray:
    """Matrix (n_out, n_in) float32 that crops, resizes, blurs and flips along one side.

    Args:
        n_in: pixels of the side.
        low, high: the crop, in pixels.
        n_out: pixels after resizing with the kernel of `resized`.
        sigma: of a Gaussian blur, in output pixels.
        flip: reverse the order.
    """
    step = (high - low) / n_out
    centre = low + (np.arange(n_out, dtype=np.float32) + 0.5) * step
    if flip:
        centre = centre[::-1]
    distance = np.abs(np.arange(0.5, n_in, dtype=np.float32) - centre[:, None])
    # a triangle, as wide as the step where it shrinks (so that nothing aliases), else 1: bilinear
    weight = np.maximum(0, 1 - distance / max(step, 1))
    weight /= weight.sum(1, keepdims=True)
    # a narrower blur changes nothing
    return banded_matmul(gaussian(n_out, sigma), weight) if sigma > 0.25 else weight


def gaussian(n: int, sigma: float) -> np.ndarray:
    """(n, n) float32: blur along a side of n pixels."""
    weight = np.exp(np.arange(n, dtype=np.float32) ** 2 / (-2 * sigma**2))
    # far from the middle it is too small for normal floats, which are many times faster
    weight *= weight > 1e-6
    blur: np.ndarray = weight[_distances(n)]
    blur /= blur.sum(1, keepdims=True)
    return blur


@cache
def _distances(n: int) -> np.ndarray:
    """(n, n): distance of every two pixels of a side."""
    distances: np.ndarray = np.abs(np.arange(n)[:, None] - np.arange(n))
    return distances


def apply_maps(planes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """rows @ planes @ columns.T: matrices of `resampling_matrix` along height and width.

    Args:
        planes: (C, H, W) float32.
        rows, columns: the matrices.
    """
    if max(rows.shape + columns.shape) <= MAX_DENSE_SIDE:
        mapped: np.ndarray = rows @ planes @ columns.T
        return mapped
    return banded_matmul(rows, banded_matmul(columns, planes.swapaxes(1, 2)).swapaxes(1, 2))


def banded_matmul(matrix: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """matrix (M, N) @ planes (..., N, W) for a matrix whose rows have short supports.

    In blocks of rows, each over its support: a quarter of the time at 224 pixels.
    """
    if max(matrix.shape) <= MAX_DENSE_SIDE:
        product: np.ndarray = matrix @ planes
        return product
    out = np.empty((*planes.shape[:-2], len(matrix), planes.shape[-1]), dtype=np.float32)
    for start in range(0, len(matrix), BLOCK_ROWS):
        block = matrix[start : start + BLOCK_ROWS]
        support = np.flatnonzero(block.any(0))
        columns = slice(support[0], support[-1] + 1)
        np.matmul(
            block[:, columns],
            planes[..., columns, :],
            out=out[..., start : start + BLOCK_ROWS, :],
        )
    return out


def of_shape(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(C, *shape): a value (C, H, W), resized unless it has this shape."""
    if value.shape[1:] == shape:
        return value
    rows, columns = (resampling_matrix(n, 0, n, m) for n, m in zip(value.shape[1:], shape))
    out = apply_maps(value.astype(np.float32), rows, columns)
    return np.rint(out).clip(0, 255).astype(np.uint8) if value.dtype == np.uint8 else out


def hue_rotation(angle: float) -> np.ndarray:
    """(3, 3): rotation of colours by `angle` radians about the grey axis."""
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    rotation: np.ndarray = cos * np.eye(3) + (1 - cos) / 3 + sin * cross
    return rotation
