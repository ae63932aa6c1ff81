"""Damage to decoded values, by one measure of severity for every kind of data.

exchange: so large a share of the parts of a value come from another record; drop: so large a share of them are gone; noise: normal noise
of so many standard deviations of the field on what is continuous. A part is a patch of a picture, a token's length of sound, a step of a
series, an event, a cell, a symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import FUSED
from amodal.evaluate.missing_modalities import FieldVectors
from amodal.inference.forward_passes import Change
from amodal.modalities import Modality, name_of

KINDS = ("exchange", "drop", "noise")


def change(kind: str, severity: float) -> Change:
    return lambda modality, value, other, rng: DAMAGE[kind](modality, value, other, severity, rng)


def damaged(seen: FieldVectors, severities: Sequence[float]) -> Iterator[tuple[tuple[str, str, float], Tensor]]:
    """((kind, field, severity), (N, D) the fused vectors of all that a record has), where the encoder can be run once more."""
    rerun = seen.embedded.changed
    for number, field in enumerate(seen.names if rerun is not None else ()):
        for kind in (k for k in KINDS if applies(k, rerun.fields[field])):
            for severity in severities:
                found = rerun(field, change(kind, severity), seen.rows.tolist())
                if FUSED in found:
                    yield (kind, field, severity), found[FUSED].values
                    continue
                x = seen.x.clone()
                x[found[field].rows, number] = normalize(found[field].values, dim=1)
                yield (kind, field, severity), replace(seen, x=x).fused(seen.there)


def applies(kind: str, modality: Modality) -> bool:
    """Symbols and categories take no noise."""
    return kind != "noise" or bool(np.any(deviation(modality, np.ones(1, dtype=np.float32))))


def exchanged(modality: Modality, value: np.ndarray, other: np.ndarray, share: float, rng) -> np.ndarray:
    hit = _hit(modality, value, share, rng)
    if name_of(modality) == "image":
        return np.where(hit, other, value) if other.dtype == value.dtype else value
    at = np.flatnonzero(hit)
    if not len(other) or not len(at):
        return value
    out, theirs = value.copy(), other[at % len(other)]
    if name_of(modality) == "events":
        out[at, 1:] = theirs[:, 1:]  # an event keeps its time
    else:
        out[at] = theirs
    return value if out.dtype.kind == "f" and not np.isfinite(out).any() else out


def dropped(modality: Modality, value: np.ndarray, other: np.ndarray, share: float, rng) -> np.ndarray:
    """At least one part is left."""
    hit, name = _hit(modality, value, share, rng, spare=True), name_of(modality)
    if name == "image":
        mean = np.array(modality.scale()[0]).reshape(-1, 1, 1) * (255 if value.dtype == np.uint8 else 1)
        return np.where(hit, np.rint(mean) if value.dtype == np.uint8 else mean, value).astype(value.dtype)
    if name in ("table", "series"):
        out = value.copy()
        out[hit] = np.nan
        return out if np.isfinite(out).any() else value
    if name == "audio":
        return np.where(hit, 0, value).astype(value.dtype)
    out = value[~hit]
    if name == "events":
        out = np.concatenate([out[:, :1] - out[:1, :1], out[:, 1:]], 1)
    return out


def noisy(modality: Modality, value: np.ndarray, other: np.ndarray, deviations: float, rng) -> np.ndarray:
    out = value + deviations * deviation(modality, value) * rng.standard_normal(value.shape)
    return np.rint(out).clip(0, 255).astype(np.uint8) if value.dtype == np.uint8 else out.astype(value.dtype)


DAMAGE = {"exchange": exchanged, "drop": dropped, "noise": noisy}


def deviation(modality: Modality, value: np.ndarray) -> np.ndarray:
    """Of the field's values, in the shape that broadcasts against one; 0 for what is not continuous."""
    name = name_of(modality)
    if name == "image":
        return np.array(modality.scale()[1]).reshape(-1, 1, 1) * (255 if value.dtype == np.uint8 else 1)
    if name == "series":
        return np.array(modality.scale()[1])
    if name == "table":
        return np.array(modality.scale()[1]) * np.array(modality.numeric())
    if name == "events":
        cells = modality.cells()  # its last column is the gap
        return np.append(0.0, (np.array(cells.scale()[1]) * np.array(cells.numeric()))[:-1])
    if name in ("text", "sequence") or value.dtype.kind != "f":
        return np.zeros(1)
    return np.sqrt(np.nanmean(np.square(value.astype(np.float64)))) if value.size else np.zeros(1)


def _hit(modality: Modality, value: np.ndarray, share: float, rng, spare: bool = False) -> np.ndarray:
    """Bool, for each pixel or entry along the first dimension; whole parts at once, not all of them if one is to be spared."""
    name = name_of(modality)
    if name == "image":
        down, across = (np.arange(side) // modality.tile for side in value.shape[1:])
        part = down[:, None] * (across[-1] + 1) + across
    else:
        part = np.arange(len(value)) // (modality.shortest if name == "audio" else 1)
    if not part.size:
        return np.zeros(part.shape, dtype=bool)
    luck = rng.random(part.max() + 1)
    hit = luck < share
    if spare and hit.all():
        hit[luck.argmax()] = False
    return hit[part]
