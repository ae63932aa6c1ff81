"""Corruption of decoded values, with one measure of severity for every modality.

A part is a patch of an image, a token's length of sound, a step of a series, an event, a cell or a
symbol.
"""

from __future__ import annotations

import numpy as np

from amodal.core import unknown

CORRUPTIONS = ("exchange", "drop", "noise")


class Corruptible:
    """Corruption of values with entries along their first dimension.

    Modalities with other values override `parts`, `deviation`, `exchanged` and `dropped`.
    """

    def corrupt(
        self,
        value: np.ndarray,
        kind: str,
        severity: float,
        rng: np.random.Generator,
        other: np.ndarray,
    ) -> np.ndarray:
        """A corrupted copy of a decoded value.

        Args:
            value: decoded.
            kind: "exchange" (parts come from `other`), "drop" (parts are removed, one stays at
                least) or "noise" (normal noise on continuous values).
            severity: share of parts, or standard deviations of noise.
            rng: the only source of randomness.
            other: the value of another record.

        Raises:
            AmodalError: an unknown kind.
        """
        if kind == "noise":
            return noisy(self, value, severity, rng)
        if kind == "exchange":
            return self.exchanged(value, other, sample_parts(self.parts(value), severity, rng))
        if kind == "drop":
            return self.dropped(value, sample_parts(self.parts(value), severity, rng, spare=True))
        raise unknown("kind of corruption", kind, CORRUPTIONS)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """Index of the part of each entry along the first dimension; parts change as a whole.

        May have any shape that broadcasts against a value.
        """
        return np.arange(len(value))

    def deviation(self, value: np.ndarray) -> np.ndarray:
        """Standard deviation of the field, in a shape that broadcasts against a value.

        0 where noise means nothing, as for symbols and categories.
        """
        return np.zeros(1)

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """A value with the entries where `hit` taken from another."""
        index = np.flatnonzero(hit)
        if not len(other) or not len(index):
            return value
        out = value.copy()
        # a shorter one starts again
        out[index] = other[index % len(other)]
        return value if out.dtype.kind == "f" and not np.isfinite(out).any() else out

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """A value without the entries where `hit`."""
        rest: np.ndarray = value[~hit]
        return rest


def noisy(
    modality: Corruptible, value: np.ndarray, deviations: float, rng: np.random.Generator
) -> np.ndarray:
    """Add normal noise of `deviations` standard deviations of the field."""
    out = value + deviations * modality.deviation(value) * rng.standard_normal(value.shape)
    if value.dtype == np.uint8:
        return np.rint(out).clip(0, 255).astype(np.uint8)
    return out.astype(value.dtype)


def sample_parts(
    part: np.ndarray, share: float, rng: np.random.Generator, spare: bool = False
) -> np.ndarray:
    """Sample parts; bool for each entry.

    Args:
        part: index of the part of each entry.
        share: probability of a part.
        rng: of the sample.
        spare: leave at least one part.
    """
    if not part.size:
        return np.zeros(part.shape, dtype=bool)
    draws = rng.random(part.max() + 1)
    hit = draws < share
    if spare and hit.all():
        hit[draws.argmax()] = False
    sampled: np.ndarray = hit[part]
    return sampled


def with_missing(value: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """A float value with NaN where `hit`; unchanged if nothing would be left."""
    out = value.copy()
    out[hit] = np.nan
    return out if np.isfinite(out).any() else value
