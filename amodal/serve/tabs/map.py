"""Map: where records lie, and a colour for each."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
from fastapi import APIRouter

from amodal.data.attributes import Attributes
from amodal.evaluate.labels import classes_of, is_number
from amodal.modalities.shared.base import shortened
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Refused
from amodal.serve.map_clusters import MapClusters
from amodal.serve.tabs._responses import checked_number, not_ready

CLASSES = 40
"""Values of a label that get a name on the map; the rarer ones are one."""
TAILS = 0.01
"""Of numbers, the share at either end that has the colour of the end, so that a few do not take all
the colours."""


MIN_KNOWN = 0.5
"""Share of the records that a label needs to colour the map unasked."""


def default_colour(embedding_map: EmbeddingMap) -> str:
    """By which a map is coloured unasked: the label with classes that most records have, unless
    most have none; else the clusters."""
    best, most = "cluster", MIN_KNOWN
    for name, values in embedding_map.labels.items():
        if is_number(values):
            continue
        known = values[embedding_map.drawn] != None  # noqa: E711  # of each of them
        share, names = known.mean(), len(classes_of(values))
        if share > most and 2 <= names <= CLASSES:
            best, most = f"label:{name}", share
    return best


def add(
    made: APIRouter,
    embedding_map: EmbeddingMap,
    attributes: Attributes,
    clusters: MapClusters,
) -> None:
    @made.get("/view/map")
    def layout(field: str = "", best: bool = False) -> Any:
        """Where records lie; 202 while it is computed, then to be asked for again. UMAP takes a
        while: until it is there, the answer is the principal components, and `final` is false,
        unless the best is asked for."""
        if field and field not in embedding_map.fields:
            embedding_map.present(field)  # raises
        projection = embedding_map.projection
        found = embedding_map.in_background("layout", field, projection)
        if found is None and not best and projection != "pca":
            projection = "pca"
            found = embedding_map.in_background("layout", field, projection)
        if found is None:
            return not_ready()
        numbers, position = found
        xy = (position * 65535).round().astype(int)
        return {
            "numbers": packed(numbers, "<u4"),
            "places": packed(np.searchsorted(embedding_map.drawn, numbers), "<u4"),
            "x": packed(xy[:, 0], "<u2"),
            "y": packed(xy[:, 1], "<u2"),
            "of": embedding_map.present(field).sum().item() if field else len(embedding_map.keys),
            "projection": projection,
            "final": projection == embedding_map.projection,
        }

    @made.get("/view/place/{number}")
    def place(number: int, field: str = "") -> Any:
        """The record that stands for one on the map: itself, or the nearest one that is drawn."""
        if field:
            embedding_map.present(field)  # raises
        return {
            "number": embedding_map.nearest_drawn(
                checked_number(number, len(embedding_map.keys)), field
            )
        }

    @made.get("/view/colour")
    def colour(by: str) -> Any:
        """A colour for each drawn record, in their order: of `label:NAME`, `data:ATTRIBUTE`,
        `has:FIELD`, `cluster:FIELD` ("" for all fields), `agreement` or `count` (of fields)."""
        kind, _, name = by.partition(":")
        if kind == "cluster":
            facet = clusters.facet(name)
            if facet is None:
                return not_ready()
            codes = facet.values[embedding_map.drawn]
            return {"kind": "classes", "names": facet.names, "values": packed(codes, "<i2")}
        if kind == "label" and name in embedding_map.labels:
            values = embedding_map.labels[name][embedding_map.drawn]
            return numbers(values) if is_number(values) else classes(values)
        if kind == "data" and name in attributes.names:
            found = embedding_map.in_background("attribute", attributes.values, name)
            if found is None:
                return not_ready()
            return numbers(found) if is_number(found) else classes(found)
        if kind == "has":
            present = embedding_map.present(name)[embedding_map.drawn]
            return {
                "kind": "classes",
                "names": ["missing", "there"],
                "values": packed(present, "<i2"),
            }
        if by == "count":
            counts = np.sum(
                [embedding_map.present(s)[embedding_map.drawn] for s in embedding_map.fields],
                axis=0,
            )
            return classes(
                np.array([f"{n} field{'s' * (n != 1)}" for n in counts.tolist()], dtype=object)
            )
        if by == "agreement":
            found = embedding_map.in_background("agreement")
            return not_ready() if found is None else numbers(found[embedding_map.drawn])
        raise Refused(404, f"there is nothing called {shortened(by)!r} to colour by")


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers as base64 of their bytes: of a million, JSON would take ten times as long."""
    return b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def classes(values: np.ndarray) -> dict[str, Any]:
    """The commonest classes by name, in the order of how common they are; the rest are `other`.
    values: int16 codes, -1 for missing."""
    count = {c: 0 for c in classes_of(values)}
    for v in values:
        if v is not None:
            count[v] += 1
    names = sorted(count, key=lambda c: (-count[c], c))
    if len(names) > CLASSES:
        names = [*names[: CLASSES - 1], "other"]
    place = {c: i for i, c in enumerate(names)}
    codes = [-1 if v is None else place.get(v, len(names) - 1) for v in values]
    return {"kind": "classes", "names": names, "values": packed(np.array(codes), "<i2")}


def numbers(values: np.ndarray) -> dict[str, Any]:
    """low, high: of the scale; clipped: whether some lie beyond; values: float32, NaN for none."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [TAILS, 1 - TAILS]).tolist() if len(finite) else (0.0, 0.0)
    ends = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if high <= low or (ends[1] - ends[0]) < 1.5 * (high - low):  # no long tail
        low, high = ends
    return {
        "kind": "numbers",
        "low": low,
        "high": high,
        "clipped": (low, high) != ends,
        "values": packed(values, "<f4"),
    }
