"""Points with classes, as records of the dense probe: each point is a place of its own.

Features of a point are those of its nearest tokens, see `amodal.inference.dense_points`. Raw values
are its place in the cloud, its channels, and the shape of what lies about it: eigenvalues of the
covariance of its neighbours (linearity, planarity and scattering of Demantké et al. 2011,
doi:10.5194/isprsarchives-XXXVIII-5-W12-97-2011) and how upright their normal is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from amodal.data.measure import evenly_spaced
from amodal.evaluate.dense_probe import Example
from amodal.evaluate.labels import NotApplicable
from amodal.inference.dense_points import point_features
from amodal.inference.embed import Embedded
from amodal.modalities import BadValue
from amodal.modalities.shared.points_values import Placed
from amodal.modalities.shared.protocols import HasPoints
from amodal.modalities.shared.rasters import UNKNOWN
from amodal.nn.encoder import Encoder

MOST = 2048
"""Points of a record that are probed, drawn once."""
MOST_CLASSES = 2**24
"""Whole numbers that a float32 holds."""
NEIGHBOURS = 16
"""Of a point, whose shape is a raw value."""


def cloud_examples(
    part: Embedded, encoder: Encoder, field: str, device: Any, most: int, raw: str
) -> Iterator[Example]:
    """Records whose points have classes, evenly spaced.

    Args:
        part: Of the records.
        encoder: What is probed.
        field: Of points.
        device: Where the encoder is.
        most: Records.
        raw: What raw values are called.

    Raises:
        NotApplicable: For vectors without records, and labels that are no numbers of classes.
    """
    forward = part.perturbed_forward
    if forward is None:
        raise NotApplicable("tokens are read from records, and these are vectors only")
    dataset, rows = forward.dataset, np.asarray(forward.indices)
    rows = rows[dataset.present(field)[rows]]
    modality = cast(HasPoints, encoder.fields[field])
    for row in rows[evenly_spaced(len(rows), most)].tolist():
        try:
            placed = modality.place_points(dataset.raw(row, field))
        except BadValue:
            continue
        if placed.label is None:
            continue
        chosen = _drawn(len(placed.points))
        truth = classes_of(placed.label, dataset.keys[row])[chosen]
        features = np.concatenate([x for _, x in point_features(encoder, field, placed, device)])
        grids = {field: features[chosen], raw: raw_values(placed)[chosen]}
        # a grid of one column, so that every place has one entry of the map
        yield Example({name: x[:, None] for name, x in grids.items()}, truth[:, None])


def classes_of(label: np.ndarray, key: str) -> np.ndarray:
    """(n,) int64, numbers of classes; -1 where unknown: missing, negative or 255.

    Args:
        label: (n,) as the file has it.
        key: Of the record.

    Raises:
        NotApplicable: For numbers that are no classes.
    """
    known = np.isfinite(label) & (label >= 0) & (label != UNKNOWN)
    wrong = known & ((label != np.floor(label)) | (label >= MOST_CLASSES))
    if wrong.any():
        raise NotApplicable(
            f"classes of points are whole numbers below {MOST_CLASSES:,}, and {key} has "
            f"{label[wrong][0]:g}: number them, or remove the column"
        )
    return np.where(known, label, -1).astype(np.int64)


def _drawn(count: int) -> np.ndarray:
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, MOST, replace=False))


def raw_values(placed: Placed) -> np.ndarray:
    """(n, 3 + 1 + 4 + C) float32: place, height above the lowest point, shape, channels."""
    from scipy.spatial import cKDTree

    places = placed.position.astype(np.float64)
    count = min(NEIGHBOURS, len(places))
    index = cKDTree(places).query(places, k=[*range(1, count + 1)])[1]
    near = places[index] - places[index].mean(1, keepdims=True)
    values, axes = np.linalg.eigh(near.transpose(0, 2, 1) @ near / count)
    roots = np.sqrt(values.clip(min=0))[:, ::-1]
    largest = np.maximum(roots[:, :1], 1e-12)
    shape = np.concatenate([-np.diff(roots, axis=1), roots[:, 2:]], 1) / largest
    upright = np.abs(axes[:, placed.up, :1])
    height = places[:, [placed.up]] - places[:, placed.up].min()
    made = np.concatenate([places, height, shape, upright, placed.channels], 1)
    out: np.ndarray = np.nan_to_num(made).astype(np.float32)
    return out
