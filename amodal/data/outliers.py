"""A number so large that, once values are measured in deviations, all others are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.data.dataset import Dataset
from amodal.data.measure import evenly_spaced, sample_count
from amodal.modalities import BadValue

FLATTENED = 1e5
"""A deviation so many times the size of usual numbers is that of a few others. Numbers of float32
have seven digits: two remain of the usual ones."""


def outlier(dataset: Dataset, name: str, values: Sequence[np.ndarray]) -> str:
    """Which number makes the measured deviation of a field many times its usual numbers.

    Args:
        dataset: its fields are measured.
        name: of the field.
        values: some of the field, decoded.

    Returns:
        A sentence, "" where there is none.
    """
    modality = dataset.fields[name]
    std = np.atleast_1d(np.asarray(getattr(modality, "std", ()) or 0.0, dtype=np.float64))
    if not values or not std.any():
        return ""
    sizes = np.stack([_sizes(value, len(std)) for value in values])
    if sizes.shape[1] != len(std):
        std = std.max(keepdims=True)
    usual = np.array([np.median(c[c > 0]) if (c > 0).any() else np.inf for c in sizes.T])
    if not (std > FLATTENED * usual).any():
        return ""
    column = int((std / usual).argmax())
    best, record, place = 0.0, "", ""
    have = np.flatnonzero(dataset.present(name))
    # those that were measured
    for i in have[evenly_spaced(len(have), sample_count(dataset, name))].tolist():
        try:
            value = dataset.value(i, name)
        except BadValue:
            continue
        if value is not None and (size := float(_sizes(value, len(std))[column])) > best:
            at = np.unravel_index(int(np.nanargmax(np.abs(value))), value.shape)
            index = (column,) if len(sizes.T) > 1 else tuple(map(int, at))
            best, record, place = size, dataset.keys[i], modality.place(index)
    return (
        f"{name}: {place} of the record {record!r} has the size {best:.3g}, and half of the "
        f"records have none above {usual[column]:.3g}: in deviations of the field all others are "
        "one number. Correct it or take the record out, then repeat this with --force"
    )


def _sizes(value: np.ndarray, width: int) -> np.ndarray:
    """(width,) sizes of the numbers of a value that has one for each deviation, else (1,) the
    largest; 0 where nothing is there."""
    size = np.nan_to_num(np.abs(value.astype(np.float64)))
    return size if size.shape == (width,) else size.max(initial=0.0).reshape(1)
