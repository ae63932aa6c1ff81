"""Records as points of a Qdrant collection: see `amodal.search.qdrant`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

import numpy as np

from amodal.search._maxsim import Lists
from amodal.search.engine import Labels

Vectors = dict[str, Any]
"""Quoted name of a field -> a vector as a list of numbers, or a list of vectors."""

NAMES = UUID("5f0c7e0a-6f0e-5d51-9a53-6d0f7c1c2a11")
CARD = str(uuid5(NAMES, "\0card"))
POINTS, NUMBERS = 256, 1_000_000  # in one request: servers refuse requests of more than 32 MB
ALL_FIELDS = "%all"  # the multivector of all fields together; no name of a field is written so


def point_contents(
    keys: Sequence[str],
    vectors: Mapping[str, Lists],
    stamps: Sequence[str],
    labels: Sequence[Labels],
    together: bool,
) -> tuple[list[Vectors], list[dict[str, Any]]]:
    """Vectors and payload of the point of each record.

    Args:
        keys: Of the records.
        vectors: field -> vectors; their `rows` are positions in `keys`.
        stamps: Of the records.
        labels: Of the records.
        together: Add all vectors of a record as one list.
    """
    points: list[Vectors] = [{} for _ in keys]
    parts: list[dict[str, list[int]]] = [{} for _ in keys]
    for source, lists in vectors.items():
        name, values, ends = (
            quote(source, safe=""),
            lists.values.astype(np.float32),
            lists.ends.tolist(),
        )
        for i, start, stop in zip(lists.rows.tolist(), ends, ends[1:]):
            if lists.lengths is None:
                points[i][name] = values[start].tolist()
                continue
            points[i][name] = values[start:stop].tolist()
            assert lists.parts is not None, "lists have numbers of parts"
            if (numbers := lists.parts[start:stop].tolist()) != list(range(stop - start)):
                parts[i][source] = numbers
    if together:
        for vector in filter(None, points):
            vector[ALL_FIELDS] = [
                v for one in vector.values() for v in (one if isinstance(one[0], list) else [one])
            ]
    payloads: list[dict[str, Any]] = [
        {"key": key, "stamp": stamp, "labels": label} | ({"parts": part} if part else {})
        for key, stamp, label, part in zip(keys, stamps, labels, parts)
    ]
    return points, payloads


def request_ranges(vectors: list[Vectors], width: int) -> Iterator[tuple[int, int]]:
    """Ranges of points that one request takes."""
    start, numbers = 0, 0
    for i, point in enumerate(vectors):
        size = width * sum(len(v) if isinstance(v[0], list) else 1 for v in point.values())
        if i > start and (i - start == POINTS or numbers + size > NUMBERS):
            yield start, i
            start, numbers = i, 0
        numbers += size
    if start < len(vectors):
        yield start, len(vectors)


def id_of(key: str) -> str:
    """The id of a record's point, made from its key, so that writing a record anew replaces it."""
    return str(uuid5(NAMES, key))


def path_of(label: str) -> str:
    """The path of a label in a payload; quoted, as a name may hold dots."""
    return f'labels."{label}"'
