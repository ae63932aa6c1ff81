"""A strong view of a line of printed music, or of any dark print on white: the augmentations of
UCASR, each with a chance.

Carvalho, Washuttl and Widmer 2023, arXiv:2309.12134, and the authors' configuration of scores.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

SCALE, SHIFT, ROTATE, NOISE, BLUR, PERLIN, ELASTIC = 0.45, 0.65, 0.35, 0.25, 0.25, 0.2, 0.2
"""How often each is done; shifts for each axis, and elastic ones for each of two sizes."""
SCALES, MAX_SHIFT, MAX_DEGREES, MAX_SIGMA = (0.9, 1.1), (0.1, 0.2), 4.0, 0.6
"""Ranges; shifts down and across are shares of the sides, a blur is in pixels."""
NOISE_MEAN, NOISE_STD, PERLIN_MOST = 0.5, 0.4, 0.6
"""Shares of the range from black to white, at most."""
CELLS = ((1, 2, 4, 5), (1, 2, 4, 5, 8))
"""Of Perlin's noise, down and across."""
FINE, COARSE = (50, 200, 0.2), (2, 10, 0.5)
"""Of an elastic change: points a side, at least and at most, and pixels that each is moved."""


def sheet_view(
    picture: np.ndarray, low: float, high: float, rng: np.random.Generator
) -> np.ndarray:
    """An augmented picture of the same shape.

    Args:
        picture: (C, H, W) float32.
        low, high: What is black and white in it.
        rng: The only source of randomness.
    """
    _, height, width = picture.shape
    offset = displacement(height, width, rng)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = y - middle_y, x - middle_x
    if rng.random() < ROTATE:
        angle = np.deg2rad(rng.uniform(-MAX_DEGREES, MAX_DEGREES))
        y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    if rng.random() < SCALE:
        scale = rng.uniform(*SCALES)
        y, x = y / scale, x / scale
    shifts = [rng.uniform(-most, most) * (rng.random() < SHIFT) for most in MAX_SHIFT]
    places = np.stack(
        [
            y + middle_y + shifts[0] * height + offset[0],
            x + middle_x + shifts[1] * width + offset[1],
        ]
    )
    # outside is paper
    out = np.stack([map_coordinates(plane, places, order=1, cval=high) for plane in picture])
    out = (out - low) / (high - low)
    if rng.random() < PERLIN:
        out = out + rng.uniform(0, PERLIN_MOST) * perlin(height, width, rng)
    if rng.random() < NOISE:
        std, mean = rng.uniform(0, NOISE_STD), rng.uniform(0, NOISE_MEAN)
        out = out + mean + std * rng.standard_normal((1, height, width))
    out = out.clip(0, 1)
    if rng.random() < BLUR:
        sigma = rng.uniform(0, MAX_SIGMA)
        out = gaussian_filter(out, (0, sigma, sigma))
    result: np.ndarray = (low + out * (high - low)).astype(np.float32)
    return result


def displacement(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(2, H, W): how far each place is moved by elastic changes, in pixels."""
    total = np.zeros((2, height, width))
    for least, most, pixels in (FINE, COARSE):
        if rng.random() < ELASTIC:
            points = int(rng.integers(least, most + 1))
            grid = pixels * rng.standard_normal((2, points, points))
            ratio = (1, height / points, width / points)
            total += zoom(grid, ratio, order=3 if points < min(height, width) else 1)
    return total


def perlin(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Perlin's gradient noise (1985), (H, W) of about -0.7 to 0.7."""
    down, across = (int(rng.choice(cells)) for cells in CELLS)
    angle = rng.uniform(0, 2 * np.pi, (down + 1, across + 1))
    y, x = (
        np.linspace(0, down, height, endpoint=False),
        np.linspace(0, across, width, endpoint=False),
    )
    cell_y, cell_x = y.astype(int)[:, None], x.astype(int)[None]
    part_y, part_x = (y % 1)[:, None], (x % 1)[None]

    def corner(dy: int, dx: int) -> np.ndarray:
        a = angle[cell_y + dy, cell_x + dx]
        slope: np.ndarray = np.sin(a) * (part_y - dy) + np.cos(a) * (part_x - dx)
        return slope

    fade_y, fade_x = (t**3 * (t * (6 * t - 15) + 10) for t in (part_y, part_x))
    top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
    bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
    out: np.ndarray = top * (1 - fade_y) + bottom * fade_y
    return out
