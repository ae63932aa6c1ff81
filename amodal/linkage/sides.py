"""The two sides that are linked: their vectors, and what stands beside these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Column, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.inference.embed import Embedded, embed_records
from amodal.inference.simple_features import FieldValues
from amodal.linkage.nearest import Nearest, nearest_of, nearest_strings
from amodal.methods.embedding_retrieval.clippings import Clippings, pooled
from amodal.modalities import BadValue, NoSimpleFeatures
from amodal.modalities.shared.protocols import Readable
from amodal.progress import Bar
from amodal.stats.string_similarity import edit_similarity

if TYPE_CHECKING:
    from amodal.model import Model

MAX_SIMPLE = 5000
"""Records of a side, up to which simple features are compared."""
MAX_STRINGS = 4_000_000
"""Pairs of texts whose edit distance is computed."""


@dataclass(frozen=True)
class Side:
    """Records of one set.

    Args:
        dataset: As the run reads it.
        rows: (N,) numbers of the records that have a vector.
        unit: (N, D) unit vectors.
        fields: Whose vectors these are.
        parts: (N,) the part of the split of each.
    """

    dataset: Dataset
    rows: np.ndarray
    unit: Tensor
    fields: tuple[str, ...]
    parts: np.ndarray

    @property
    def keys(self) -> list[str]:
        """Of the N records."""
        return [self.dataset.keys[i] for i in self.rows.tolist()]

    def label(self, name: str) -> np.ndarray:
        """(N,) text, None where missing."""
        values = self.dataset.label(name)[self.rows]
        made = np.full(len(values), None, dtype=object)
        made[:] = [None if v is None or v != v else str(v) for v in values]
        return made


def side_of(
    model: Model,
    data: Any,
    *,
    field: str | None,
    weights: Mapping[str, float],
    part: str | None,
    progress: bool,
) -> Side:
    """Embed the records of one side.

    Args:
        model: The run.
        data: Whatever `amodal.open` takes; it may lack fields of the run.
        field: Whose vectors are compared; all together unless set.
        weights: Field -> its weight among all together.
        part: Of the split; all records unless set.
        progress: Show a bar.

    Raises:
        AmodalError: For an unknown field, and if there is no record to link.
    """
    for name in [*weights, *([] if field is None else [field])]:
        if name not in model.fields:
            raise unknown("field of this run", name, model.fields)
    decoded = model.read(data)
    dataset = model.with_features(decoded)
    rows = np.asarray(dataset.split(part) if part else np.arange(len(dataset)))
    if not len(rows):
        raise AmodalError(f"{dataset.name!r} has no records to link")
    with Bar("embed", len(rows), shown=progress) as bar:
        z = embed_records(
            model.encoder,
            dataset,
            rows,
            device=model.device,
            labels=False,
            progress=lambda count: bar.step("records", by=count),
        )
    if z.abs_cosine:
        raise AmodalError(
            "this run compares vectors whose sign means nothing, so that opposites look alike; "
            "link records by another run"
        )
    column, fields = _column(model, z, field, weights)
    if not len(column):
        raise AmodalError(f"no record of {dataset.name!r} has {' or '.join(fields)}")
    unit = normalize(vectors_of(column).float(), dim=1)
    if not torch.isfinite(unit).all():
        raise AmodalError("the vectors of this run are not finite: it has diverged")
    numbers = rows[column.rows.numpy()]
    return Side(decoded, numbers, unit, fields, dataset.parts[numbers])


def _column(
    model: Model, z: Embedded, field: str | None, weights: Mapping[str, float]
) -> tuple[Column, tuple[str, ...]]:
    """The compared vectors, and the fields that they are of."""
    if field is not None:
        return z.aligned[field], (field,)
    if not weights and isinstance(model.method, Clippings):
        weights = model.method.weights
    if weights:
        return pooled(z.aligned, weights), tuple(n for n, w in weights.items() if w)
    return z.fused(), tuple(model.fields)


def simple_nearest(one: Side, other: Side | None) -> dict[str, Nearest]:
    """What simple features, and edit distance of texts, take for the nearest record.

    Args:
        one: The queries.
        other: The keys; None for the queries themselves.

    Returns:
        Name -> the nearest; empty where there are no such features, or too many records.
    """
    keys = one if other is None else other
    if max(len(one.rows), len(keys.rows)) > MAX_SIMPLE or one.fields != keys.fields:
        return {}
    found: dict[str, Nearest] = {}
    vectors = _simple(one, other)
    if vectors is not None:
        found["simple features"] = nearest_of(vectors[0], vectors[1])
    if len(one.rows) * len(keys.rows) <= MAX_STRINGS and (strings := _strings(one, keys)):
        queries, texts = strings
        try:
            matrix = np.stack([edit_similarity(text, texts) for text in queries])
        except AmodalError:  # without rapidfuzz
            return found
        found["edit distance"] = nearest_strings(matrix, itself=other is None)
    return found


def _simple(one: Side, other: Side | None) -> tuple[Tensor, Tensor | None] | None:
    """Unit vectors of both sides, the mean over fields; None where a field has none."""
    sides = [one] if other is None else [one, other]
    totals: list[list[Tensor]] = [[] for _ in sides]
    for field in one.fields:
        try:
            values = [_values(side, field) for side in sides]
            features = one.dataset.fields[field].simple_features(values[0][0])
            for number, (raws, place) in enumerate(values):
                made = torch.from_numpy(np.asarray(features(raws), dtype=np.float32))
                spread = torch.zeros(len(sides[number].rows), made.shape[1])
                spread[torch.from_numpy(place)] = normalize(made, dim=1)
                totals[number].append(spread)
        except (NoSimpleFeatures, BadValue):
            return None
    units = [normalize(torch.cat(parts, 1), dim=1) for parts in totals]
    return units[0], units[1] if other is not None else None


def _values(side: Side, field: str) -> tuple[FieldValues, np.ndarray]:
    """The values of a field, and which of the records have one."""
    place = np.flatnonzero(side.dataset.present(field)[side.rows])
    return FieldValues(side.dataset, field, side.rows[place]), place


def _strings(one: Side, keys: Side) -> tuple[list[str], list[str]] | None:
    """The texts of both sides; None without a field of text."""
    modalities = one.dataset.fields
    field = next((f for f in one.fields if isinstance(modalities[f], Readable)), None)
    return None if field is None else (_texts(one, field), _texts(keys, field))


def _texts(side: Side, field: str) -> list[str]:
    modality = side.dataset.fields[field]
    assert isinstance(modality, Readable)
    texts = []
    for i in side.rows.tolist():
        try:
            value = side.dataset.value(i, field)
        except BadValue:
            value = None
        texts.append("" if value is None else modality.text(value))
    return texts
