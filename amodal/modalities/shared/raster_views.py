"""What views of rasters are made of: crops, turns, and other gains and gaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CROPS = {"weak": (0.7, 1.0), "strong": (0.5, 1.0), "local": (0.25, 0.5)}
"""Views that are crops -> share of a side, from and to."""
SEASONS = {"season": "strong", "season_local": "local"}
"""Views of one date -> the view that they are otherwise."""


def crop(
    value: np.ndarray,
    shares: tuple[float, float],
    least: int,
    rng: np.random.Generator,
    longest: int,
) -> np.ndarray:
    """A random window of whole pixels.

    Args:
        value: (T, planes, H, W).
        shares: of a side, from and to.
        least: pixels of a side, where the value has so many.
        rng: the only source of randomness.
        longest: pixels of a side at most; less than a crop in a step with smaller patches.
    """
    share = rng.uniform(*shares)
    windows = []
    for side in value.shape[2:]:
        length = min(side, max(least, round(share * side)))
        start = int(rng.integers(side - length + 1))
        windows.append(slice(start, start + length))
    out: np.ndarray = value[:, :, windows[0], windows[1]]
    return window(out, longest, rng) if max(out.shape[2:]) > longest else out


def window(value: np.ndarray, longest: int, rng: np.random.Generator) -> np.ndarray:
    """A random window with a pixel that exists.

    Args:
        value: (T, planes, H, W).
        longest: pixels of a side at most.
        rng: the only source of randomness.
    """
    known = np.argwhere(np.isfinite(value[:, 1:]).any((0, 1)))
    place = known[rng.integers(len(known))] if len(known) else (0, 0)
    windows = []
    for at_pixel, side in zip(place, value.shape[2:]):
        length = min(side, longest)
        first, last = max(0, int(at_pixel) - length + 1), min(int(at_pixel), side - length)
        start = int(rng.integers(first, last + 1))
        windows.append(slice(start, start + length))
    out: np.ndarray = value[:, :, windows[0], windows[1]]
    return out


def some_dates(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the dates or more of (T, planes, H, W), in order."""
    if len(value) < 2:
        return value
    count = int(rng.integers(-(-len(value) // 2), len(value) + 1))
    out: np.ndarray = value[np.sort(rng.choice(len(value), count, replace=False))]
    return out


def turned(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the eight turned and mirrored forms of (T, planes, H, W)."""
    out = np.rot90(value, int(rng.integers(4)), axes=(2, 3))
    return np.ascontiguousarray(out[..., ::-1] if rng.random() < 0.5 else out)


def distorted(
    value: np.ndarray, mean: Sequence[float], std: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Each band scaled and shifted by about a tenth, with noise, one in five missing.

    Args:
        value: (T, 1 + C, H, W).
        mean, std: of each band.
        rng: the only source of randomness.
    """
    out, count = value.copy(), len(mean)
    mean_C, std_C = (np.asarray(s, dtype=np.float32)[:, None, None] for s in (mean, std))
    gain = rng.normal(1, 0.1, (count, 1, 1)).astype(np.float32)
    shift = rng.normal(0, 0.1, (count, 1, 1)).astype(np.float32) * std_C
    noise = 0.05 * std_C * rng.standard_normal(out[:, 1:].shape, dtype=np.float32)
    out[:, 1:] = mean_C + (out[:, 1:] - mean_C) * gain + shift + noise
    silent = np.flatnonzero(rng.random(count) < 0.2)
    if len(silent) < count:
        out[:, 1 + silent] = np.nan
    return out
