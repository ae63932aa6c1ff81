"""What a user asks to be mapped, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.core import AmodalError
from amodal.core.protocols import Segments
from amodal.maps.modes import MAX_LAYERS
from amodal.maps.queries import Query, read_queries
from amodal.methods.contract import Method

SEGMENTS = 6
"""Of unsupervised segmentation, unless a number is named."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options of a map.

    Args:
        kind: "queries", "segments", "change" or "classes".
        queries: Texts to look for.
        segments: K of unsupervised segmentation, 0 for none.
        change: The fields or columns with the two pictures, or the one with pictures of a place.
        by: The label or column with the place of a record.
        time: The label or column by which records of a place are in order.
        field: Of the encoder, whose network reads the pictures.
        text_field: Of the encoder, which reads the queries.
        label: A field with rasters of labels.
        threshold: Of a single layer.
        part: Of the split.
        resolution: Side in pixels at which pictures are read; None for the encoder's.
        pictures: How many records are drawn.
        untrained: Measure the encoder before training too.
        seed: Of all that is random.
        progress: Show bars.
    """

    kind: str
    queries: tuple[Query, ...] = ()
    segments: int = 0
    change: tuple[str, ...] = ()
    by: str | None = None
    time: str | None = None
    field: str | None = None
    text_field: str | None = None
    label: str | None = None
    threshold: float | None = None
    part: str | None = None
    resolution: int | None = None
    pictures: int = 100
    untrained: bool = True
    seed: int = 0
    progress: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What values and label maps depend on."""
        return {
            "kind": self.kind,
            "queries": [[q.name, list(q.prompts), q.number] for q in self.queries],
            "segments": self.segments,
            "change": list(self.change),
            "by": self.by,
            "time": self.time,
            "threshold": self.threshold,
            "part": self.part,
            # maps of before it existed have none
            **({"resolution": self.resolution} if self.resolution is not None else {}),
            "seed": self.seed,
        }


def request_of(
    method: Method | None,
    *,
    queries: str | Sequence[str] | Path | None,
    templates: Sequence[str],
    segments: int | None,
    change: str | Sequence[str] | None,
    by: str | None,
    time: str | None,
    threshold: float | None,
    pictures: int,
    seed: int,
    **others: Any,
) -> Request:
    """Check options against each other.

    Args:
        method: Of the run, which may have learnt classes of places.
        queries, templates: See `amodal.maps.queries.read_queries`.
        segments, change, by, time, threshold, pictures, seed: See `Request`.
        others: Options of `Request` that need no check here.

    Raises:
        AmodalError: For options that exclude each other, and numbers out of range.
    """
    asked = [
        name
        for name, value in (("queries", queries), ("segments", segments), ("change", change))
        if value is not None
    ]
    if len(asked) > 1:
        raise AmodalError(
            f"a map shows one thing: {' or '.join(asked)}, not both; run it twice, into two folders"
        )
    if templates and queries is None:
        raise AmodalError("templates are sentences around queries, and there are no queries")
    for name, value in (("seed", seed), ("pictures", pictures)):
        if value < 0:
            raise AmodalError(f"{name} is {value}, and 0 is the least")
    learnt = isinstance(method, Segments) and not method.labels
    kind = asked[0] if asked else "classes" if learnt else "segments"
    number = (SEGMENTS if segments is None else segments) if kind == "segments" else 0
    if kind == "segments" and not 2 <= number <= MAX_LAYERS:
        raise AmodalError(f"a picture is divided into 2 to {MAX_LAYERS} segments, not {number}")
    if kind == "classes" and others.get("resolution") is not None:
        raise AmodalError(
            "classes that the method has learnt are of whole pictures with all their fields; leave "
            "--resolution out"
        )
    texts = tuple(read_queries(queries, templates)) if queries is not None else ()
    if threshold is not None and kind not in ("change", "queries"):
        raise AmodalError("a threshold is of change, or of the similarity to queries")
    return Request(
        kind=kind,
        queries=texts,
        segments=number,
        change=_sources(change, by, time),
        by=by,
        time=time,
        threshold=threshold,
        pictures=pictures,
        seed=seed,
        **others,
    )


def _sources(
    change: str | Sequence[str] | None, by: str | None, time: str | None
) -> tuple[str, ...]:
    if change is None:
        if by or time:
            raise AmodalError(
                "by and time say which pictures show one place and in which order: add change = "
                "the field with the pictures"
            )
        return ()
    parts = change.split(",") if isinstance(change, str) else [str(c) for c in change]
    names = tuple(part.strip() for part in parts if part.strip())
    if by and time and len(names) == 1:
        return names
    if by or time:
        raise AmodalError(
            "change over time takes one field, by (the column of the place) and time (the column "
            f"of the date); there are {len(names)} fields, by = {by} and time = {time}"
        )
    if len(names) != 2:
        raise AmodalError(
            "a change is between two fields, BEFORE,AFTER; or between records of one field, with "
            f"by and time; not of {', '.join(names) or 'nothing'}"
        )
    return names
