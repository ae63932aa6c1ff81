"""Decoded values, corrupted by one measure of severity for every modality.

A part is a patch of a picture, a token's length of sound, a step of a series, an event, a cell or a
symbol.
"""

from __future__ import annotations

import numpy as np

from amodal.core import unknown

CORRUPTIONS = ("exchange", "drop", "noise")


class Corruptible:
    """What the values of most modalities have in common: entries along their first dimension.
    Others override `parts`, `deviation`, `exchanged` and `dropped`."""

    def corrupt(
        self,
        value: np.ndarray,
        kind: str,
        severity: float,
        rng: np.random.Generator,
        other: np.ndarray,
    ) -> np.ndarray:
        """A decoded value, corrupted.

        Args:
            kind: "exchange" (parts come from `other`), "drop" (parts are gone, one stays at least)
                or "noise" (normal noise on what is continuous).
            severity: the share of parts, or the standard deviations of noise.
            other: the value of another record.
        """
        if kind == "noise":
            return noisy(self, value, severity, rng)
        if kind == "exchange":
            return self.exchanged(value, other, chosen(self.parts(value), severity, rng))
        if kind == "drop":
            return self.dropped(value, chosen(self.parts(value), severity, rng, spare=True))
        raise unknown("kind of corruption", kind, CORRUPTIONS)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """The number of the part that each entry of a value belongs to, along its first dimension
        (or of a shape that broadcasts against it): parts are corrupted as a whole."""
        return np.arange(len(value))

    def deviation(self, value: np.ndarray) -> np.ndarray:
        """Of the field's values, in a shape that broadcasts against one; 0 where noise means
        nothing, as for symbols and categories."""
        return np.zeros(1)

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """A value with the entries where `hit` taken from another."""
        at = np.flatnonzero(hit)
        if not len(other) or not len(at):
            return value
        out = value.copy()
        out[at] = other[at % len(other)]
        return value if out.dtype.kind == "f" and not np.isfinite(out).any() else out

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """A value without the entries where `hit`."""
        return value[~hit]


def noisy(
    modality: Corruptible, value: np.ndarray, deviations: float, rng: np.random.Generator
) -> np.ndarray:
    """Normal noise of so many standard deviations of the field."""
    out = value + deviations * modality.deviation(value) * rng.standard_normal(value.shape)
    if value.dtype == np.uint8:
        return np.rint(out).clip(0, 255).astype(np.uint8)
    return out.astype(value.dtype)


def chosen(
    part: np.ndarray, share: float, rng: np.random.Generator, spare: bool = False
) -> np.ndarray:
    """Bool for each entry: parts at random, not all of them if one is to be spared."""
    if not part.size:
        return np.zeros(part.shape, dtype=bool)
    luck = rng.random(part.max() + 1)
    hit = luck < share
    if spare and hit.all():
        hit[luck.argmax()] = False
    return hit[part]


def without(value: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """A value of floats with NaN where `hit`; as it was where nothing would be left."""
    out = value.copy()
    out[hit] = np.nan
    return out if np.isfinite(out).any() else value
