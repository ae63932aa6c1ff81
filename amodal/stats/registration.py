"""How far two pictures of one place lie off each other, by phase correlation.

Kuglin and Hines 1975; the fraction of a pixel by a matrix product around the peak, Guizar-Sicairos,
Thurman and Fienup 2008, Optics Letters 33(2). Edges are compared, not brightness, so that sensors
of different physics can be. Ours, since scikit-image is no dependency, and since spectra of many
pictures are averaged here before the peak is looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRACTION = 20
"""Steps of a pixel in which the peak is found."""
LEAST_SIDE = 8
"""Pixels of a side below which a spectrum says nothing."""
LEAST_VALID = 0.5
"""Share of pixels that must be there."""
FLAT = 1e-6
"""Deviation of a picture's edges, relative to their mean, below which it is flat."""


@dataclass(frozen=True)
class Shift:
    """Where the second of two pictures lies, seen from the first.

    Attributes:
        down, right: pixels; what is at (y, x) of the first is at (y + down, x + right) of the
            second.
        score: how far the peak stands out of the correlations at all other shifts, in their
            standard deviations. Of noise it is about 4.
    """

    down: float
    right: float
    score: float

    @property
    def length(self) -> float:
        """Of the shift in pixels."""
        return float(np.hypot(self.down, self.right))

    def distance(self, other: Shift) -> float:
        """Pixels between two shifts."""
        return float(np.hypot(self.down - other.down, self.right - other.right))


def edges(planes: np.ndarray) -> np.ndarray | None:
    """The strength of edges, windowed, as `cross_spectrum` takes it.

    Args:
        planes: (P, H, W) of one place: bands and dates, NaN where missing.

    Returns:
        (H, W) float64 of mean 0 about, 0 where missing; None where the picture is too small, too
        empty or too flat to be placed.
    """
    if min(planes.shape[1:]) < LEAST_SIDE:
        return None
    total = np.zeros(planes.shape[1:])
    count = np.zeros(planes.shape[1:])
    for plane in planes.astype(np.float64):
        finite = np.isfinite(plane)
        if finite.mean() < LEAST_VALID:
            continue
        deviation = plane[finite].std()
        if deviation <= FLAT * max(1e-12, float(np.abs(plane[finite]).max())):
            continue
        steps = np.hypot(*np.gradient(plane / deviation))
        present = np.isfinite(steps)
        total += np.where(present, steps, 0)
        count += present
    present = count > 0
    if present.mean() < LEAST_VALID:
        return None
    mean = np.where(present, total / np.maximum(count, 1), 0)
    centred = np.where(present, mean - mean[present].mean(), 0)
    if centred.std() <= FLAT * max(1e-12, mean[present].mean()):
        return None
    down, across = (np.hanning(side + 2)[1:-1] for side in centred.shape)
    windowed: np.ndarray = centred * down[:, None] * across
    return windowed


def cross_spectrum(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The phases of the product of two spectra.

    Args:
        first, second: (H, W), as `edges` makes them.

    Returns:
        (H, W) complex64 of absolute value 1, or 0 where a spectrum has nothing.
    """
    product = np.fft.fft2(second) * np.conj(np.fft.fft2(first))
    size = np.abs(product)
    least = 1e-9 * size.max() if size.size else 0.0
    phases: np.ndarray = np.where(size > least, product / np.maximum(size, 1e-300), 0)
    return phases.astype(np.complex64)


def shift_of(spectrum: np.ndarray) -> Shift:
    """The shift of the highest correlation.

    Args:
        spectrum: (H, W) of one pair, or the mean of spectra of pairs of one shape. The shift is
            looked for up to a third of a side.
    """
    height, width = spectrum.shape
    surface = np.fft.ifft2(spectrum).real
    reach = [max(1, side // 3) for side in (height, width)]
    rows, columns = (np.arange(-r, r + 1) for r in reach)
    window = surface[np.ix_(rows % height, columns % width)]
    y, x = np.unravel_index(int(window.argmax()), window.shape)
    down, right = int(rows[y]), int(columns[x])
    around = np.ones(surface.shape, dtype=bool)
    near = np.arange(-1, 2)
    around[np.ix_((down + near) % height, (right + near) % width)] = False
    others = surface[around]
    score = (window[y, x] - others.mean()) / max(float(others.std()), 1e-12)
    fine = np.arange(-FRACTION, FRACTION + 1) / FRACTION
    # the inverse transform at fractions of a pixel around the peak, as a product of matrices
    at_rows = np.exp(2j * np.pi * np.outer(down + fine, np.fft.fftfreq(height)))
    at_columns = np.exp(2j * np.pi * np.outer(np.fft.fftfreq(width), right + fine))
    near_peak = (at_rows @ spectrum @ at_columns).real
    y, x = np.unravel_index(int(near_peak.argmax()), near_peak.shape)
    return Shift(float(down + fine[y]), float(right + fine[x]), float(score))


def mean_shift(
    spectra: np.ndarray, rng: np.random.Generator, draws: int = 200
) -> tuple[Shift, np.ndarray]:
    """The shift that pairs have in common, and how sure it is.

    Args:
        spectra: (N, H, W) complex, of N pairs.
        rng: draws the pairs of each repetition.
        draws: repetitions of the bootstrap over pairs.

    Returns:
        The shift of the mean spectrum, and (draws, 2) shifts down and right, each of N pairs drawn
        with replacement.
    """
    count = len(spectra)
    flat = spectra.reshape(count, -1)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float32)
    drawn = []
    for weight in weights:
        found = shift_of((weight @ flat).reshape(spectra.shape[1:]) / count)
        drawn.append((found.down, found.right))
    return shift_of(spectra.mean(0)), np.array(drawn)


def resampled(
    plane: np.ndarray, rows: tuple[float, float, int], columns: tuple[float, float, int]
) -> np.ndarray:
    """Means over the cells of another grid, by the area that pixels share with them.

    Args:
        plane: (…, H, W), NaN where missing.
        rows, columns: where the new grid begins and how large a cell is, in pixels of `plane`, and
            how many cells there are.

    Returns:
        (…, rows, columns); NaN where less than half of a cell is there.
    """
    height, width = plane.shape[-2:]
    down, across = _shares(height, *rows), _shares(width, *columns)
    present = np.isfinite(plane)
    total = down @ np.where(present, plane, 0).astype(np.float64) @ across.T
    area = down @ present.astype(np.float64) @ across.T
    whole = rows[1] * columns[1]
    out: np.ndarray = np.where(area >= LEAST_VALID * whole, total / np.maximum(area, 1e-12), np.nan)
    return out


def _shares(side: int, start: float, step: float, count: int) -> np.ndarray:
    """(count, side): the length that each pixel shares with each cell."""
    first = start + step * np.arange(count)[:, None]
    pixel = np.arange(side)
    shared: np.ndarray = np.minimum(first + step, pixel + 1) - np.maximum(first, pixel)
    return shared.clip(0)
