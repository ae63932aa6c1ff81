"""What is measured of the shape of a cloud, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.modalities.shared.draw import BACKGROUND, COLORMAP
from amodal.modalities.shared.points_files import COLOUR

AXES = "xyz"
PAIRS, D2_BINS, BINS = 4096, 32, 16
"""Pairs of points whose distances are counted, and bins of histograms."""
FARTHEST = 2.0
"""Of a distance, in means of all, in the last bin."""
QUANTILES = (0.1, 0.5, 0.9)
SIDE = 128
"""Pixels of a picture."""
AZIMUTH, ELEVATION = np.deg2rad(35), np.deg2rad(25)
DOT = 2
"""Pixels of a point's side."""


def extents(value: np.ndarray) -> tuple[float, float, float]:
    """Lengths along x, y and z of (n, 3 + C), in metres."""
    x, y, z = np.ptp(value[:, :3].astype(np.float64), axis=0).tolist()
    return x, y, z


def extent(value: np.ndarray, axis: int) -> float:
    """Length along one axis of (n, 3 + C), in metres."""
    return extents(value)[axis]


def radius(value: np.ndarray) -> float:
    """Metres from the mean of the points to the farthest."""
    xyz = value[:, :3].astype(np.float64)
    return float(np.sqrt(np.square(xyz - xyz.mean(0)).sum(1).max()))


def statistics(values: Sequence[np.ndarray], up: str) -> list[npt.NDArray[np.float64]]:
    """Groups of columns of n >= 1 values (m, 3 + C).

    Logarithms of the extents; eigenvalues of the covariance; histograms of the distances of pairs
    (D2, Osada et al. 2002, doi:10.1145/571647.571648), of the distances from the middle, and of
    heights; mean, deviation and quantiles of attributes.

    Args:
        values: clouds.
        up: the axis that is vertical.
    """
    rows = [_statistics(value.astype(np.float64), up) for value in values]
    groups = [np.stack(group) for group in zip(*rows)]
    return [group for group in groups if group.shape[1]]


def _statistics(value: np.ndarray, up: str) -> list[np.ndarray]:
    xyz, rest = value[:, :3] - value[:, :3].mean(0), value[:, 3:]
    size = max(float(np.sqrt(np.square(xyz).sum(1).mean())), 1e-12)
    height = xyz[:, AXES.index(up)]
    across = np.delete(np.ptp(xyz, axis=0), AXES.index(up))
    # which of the two horizontal axes is longer says nothing, as objects are turned
    lengths = np.array([np.ptp(height), across.max(), across.min(), size])
    eigenvalues = np.linalg.eigvalsh(xyz.T @ xyz / len(xyz))[::-1].clip(min=0)
    shares = np.sqrt(eigenvalues / max(eigenvalues.sum(), 1e-24))
    a, b = np.random.default_rng(0).integers(0, len(xyz), (2, PAIRS))
    pairs = np.sqrt(np.square(xyz[a] - xyz[b]).sum(1))
    out = [np.log(lengths + 1e-9 * size + 1e-12), shares]
    out.append(_histogram(pairs / max(pairs.mean(), 1e-12), D2_BINS, FARTHEST))
    out.append(_histogram(np.sqrt(np.square(xyz).sum(1)) / size, BINS, FARTHEST))
    out.append(_histogram((height - height.min()) / max(np.ptp(height), 1e-12), BINS, 1.0))
    known = np.where(np.isfinite(rest).any(0), rest, 0.0)
    out.append(
        np.concatenate(
            [np.nanmean(known, 0), np.nanstd(known, 0), *np.nanquantile(known, QUANTILES, axis=0)]
        )
        if rest.shape[1]
        else np.zeros(0)
    )
    return out


def _histogram(values: np.ndarray, bins: int, top: float) -> np.ndarray:
    """(bins,) roots of shares, so that products are Bhattacharyya's coefficient."""
    index = (values / top * bins).astype(np.int64).clip(0, bins - 1)
    return np.sqrt(np.bincount(index, minlength=bins) / len(values))


def picture(value: np.ndarray, attributes: Sequence[str], up: str) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the cloud from above and the side, far points first; in its own
    colours, or coloured by height.

    Args:
        value: (n, 3 + C).
        attributes: names of the C columns.
        up: the axis that is vertical.
    """
    at_up = AXES.index(up)
    height = value[:, at_up].astype(np.float64)
    # the two horizontal axes so that the three are right-handed
    x, y = (value[:, (at_up + step) % 3].astype(np.float64) for step in (1, 2))
    x, y, height = (axis - (axis.min() + axis.max()) / 2 for axis in (x, y, height))
    right = np.cos(AZIMUTH) * x - np.sin(AZIMUTH) * y
    depth = np.sin(AZIMUTH) * x + np.cos(AZIMUTH) * y
    upward = np.cos(ELEVATION) * height - np.sin(ELEVATION) * -depth
    depth = np.cos(ELEVATION) * depth - np.sin(ELEVATION) * height
    colours = _colours(value, attributes, height)
    scale = (SIDE - 8 - DOT) / max(np.ptp(right), np.ptp(upward), 1e-12)
    column = (SIDE / 2 + (right - (right.min() + right.max()) / 2) * scale).astype(int)
    line = (SIDE / 2 - (upward - (upward.min() + upward.max()) / 2) * scale).astype(int)
    near = (depth.max() - depth) / max(np.ptp(depth), 1e-12)
    shade = (0.65 + 0.35 * near)[:, None]
    out = np.full((SIDE, SIDE, 3), BACKGROUND, dtype=np.uint8)
    order = np.argsort(-depth, kind="stable")
    for down in range(DOT):
        for along in range(DOT):
            rows = (line[order] + down).clip(0, SIDE - 1)
            columns = (column[order] + along).clip(0, SIDE - 1)
            out[rows, columns] = (colours * shade)[order].clip(0, 255).astype(np.uint8)
    return out


def _colours(value: np.ndarray, attributes: Sequence[str], height: np.ndarray) -> np.ndarray:
    """(n, 3) from 0 to 255."""
    if set(COLOUR) <= set(attributes):
        chosen = value[:, [3 + list(attributes).index(name) for name in COLOUR]]
        if np.isfinite(chosen).any():
            return np.nan_to_num(chosen.astype(np.float64), nan=0.5).clip(0, 1) * 255
    share = (height - height.min()) / max(np.ptp(height), 1e-12)
    # the darkest and the brightest would not show on white
    place = 0.8 + share * 2.4
    stops = np.arange(len(COLORMAP))
    return np.stack([np.interp(place, stops, COLORMAP[:, c]) for c in range(3)], 1)
