"""What views of scans are made of: windows, other gains, and boxes that are missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.modalities.shared import volume_frame as frame

CROPS = {"weak": (0.7, 1.0), "strong": (0.5, 1.0), "local": (0.25, 0.5)}
"""Views that are crops -> share of each side of a window, from and to."""
TRIES = 8
"""Windows to draw before one around a voxel that exists."""
MAX_TOKENS = 4096
"""Patches of a plain view; of a scan that has more, evenly spaced ones remain."""
CUTOUT = (0.1, 0.3)
"""Share of each side of a missing box, from and to."""


def crop(
    value: np.ndarray,
    shares: tuple[float, float],
    least: Sequence[int],
    longest: Sequence[int],
    rng: np.random.Generator,
) -> np.ndarray:
    """A random window of whole voxels, with one at least that exists.

    Args:
        value: see `volume_frame`.
        shares: of each side of the value, or of `longest` where the value is larger; from and to.
        least: voxels of each side, where the value has so many.
        longest: voxels of each side at most.
        rng: the only source of randomness.
    """
    voxels = frame.voxels_of(value)
    share = rng.uniform(*shares)
    shape = [
        min(side, max(low, round(share * min(side, high))))
        for side, low, high in zip(voxels.shape, least, longest)
    ]
    for _ in range(TRIES):
        starts = [int(rng.integers(side - n + 1)) for side, n in zip(voxels.shape, shape)]
        within = tuple(slice(start, start + n) for start, n in zip(starts, shape))
        if np.isfinite(voxels[within]).any():
            return frame.cut(value, starts, shape)
    known = np.argwhere(np.isfinite(voxels))
    at = known[rng.integers(len(known))] if len(known) else (0, 0, 0)
    starts = []
    for place, side, n in zip(at, voxels.shape, shape):
        starts.append(int(rng.integers(max(0, int(place) - n + 1), min(int(place), side - n) + 1)))
    return frame.cut(value, starts, shape)


def distorted(value: np.ndarray, mean: float, std: float, rng: np.random.Generator) -> np.ndarray:
    """All voxels scaled and shifted by about a tenth, with noise, and a box of them missing.

    Args:
        value: see `volume_frame`.
        mean, std: of the field.
        rng: the only source of randomness.
    """
    voxels = frame.voxels_of(value)
    gain, shift = rng.normal(1, 0.1), rng.normal(0, 0.1) * std
    noise = 0.05 * std * rng.standard_normal(voxels.shape, dtype=np.float32)
    out = (mean + (voxels - mean) * gain + shift + noise).astype(np.float32)
    lengths = [max(1, round(rng.uniform(*CUTOUT) * side)) for side in voxels.shape]
    starts = [int(rng.integers(side - n + 1)) for side, n in zip(voxels.shape, lengths)]
    box = tuple(slice(start, start + n) for start, n in zip(starts, lengths))
    holed = out.copy()
    holed[box] = np.nan
    return frame.with_voxels(value, holed if np.isfinite(holed).any() else out)


def thinned(value: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """The value, of which at most `MAX_TOKENS` patches remain, evenly spaced ones."""
    voxels = frame.voxels_of(value)
    cells = [-(-side // p) for side, p in zip(voxels.shape, patch)]
    count = int(np.prod(cells))
    if count <= MAX_TOKENS:
        return value
    present = np.isfinite(voxels)
    for axis, p in enumerate(patch):
        present = np.logical_or.reduceat(present, np.arange(0, voxels.shape[axis], p), axis)
    filled = np.flatnonzero(present)
    if len(filled) <= MAX_TOKENS:
        return value
    chosen = np.zeros(count, dtype=bool)
    chosen[filled[np.linspace(0, len(filled) - 1, MAX_TOKENS).round().astype(int)]] = True
    remain = chosen.reshape(cells)
    for axis, p in enumerate(patch):
        remain = remain.repeat(p, axis).take(np.arange(voxels.shape[axis]), axis)
    return frame.with_voxels(value, np.where(remain, voxels, np.float32(np.nan)))
