"""Gallery: thumbnails of a selection, with filters, sorting and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from amodal.data import Dataset
from amodal.modalities import name_of
from amodal.modalities.shared.base import shortened
from amodal.serve.bodies import read_body
from amodal.serve.facet import Facet
from amodal.serve.limits import Limits, Refused
from amodal.serve.record_filter import Query as RecordQuery
from amodal.serve.record_filter import RecordFilter, checked_records
from amodal.serve.tabs._responses import checked_number, not_ready, plain
from amodal.serve.tabs.records import Value, as_csv
from amodal.serve.thumbnails import Thumbnails, media_type
from amodal.serve.values import parse_json
from amodal.serve.without import train_without

MAX_PAGE = 200
"""Records of one answer."""
MAX_TILES = 24
"""Values of one answer: they are decoded for it."""
MAX_NAMES = 200
"""Classes of a facet that are listed, the commonest first."""
BINS = 24
"""Bars of a histogram."""
MAX_TEXT = 300
"""Characters of a text on a tile."""
MAX_CELLS = 8
"""Cells of a table on a tile."""


def add(
    made: APIRouter,
    run: Path,
    records: RecordFilter,
    value: Value,
    limits: Limits,
    method: str,
) -> None:
    """The routes of the tab.

    Args:
        made: Gets them.
        run: The run folder.
        records: That are shown, and their tags.
        value: Decodes one.
        limits: Of requests.
        method: Of the run.
    """
    embedding_map, dataset, tags = records.embedding_map, records.dataset, records.tags
    thumbnails = Thumbnails(lambda n, field: dataset.fields[field].show(value(n, field)))
    total = len(embedding_map.keys)

    async def json_of(request: Request) -> Any:
        body = await read_body(request, limits)
        if not isinstance(body, bytes):  # a form needs no consent of the browser to be sent here
            raise Refused(415, "a body of application/json is read")
        return await run_in_threadpool(parse_json, body, limits)

    @made.get("/view/facets")
    def facets() -> Any:
        """What records are filtered and sorted by."""
        return [{"by": by, "name": name, "kind": kind} for by, name, kind in records.facets]

    @made.get("/view/facet")
    def facet(by: str) -> Any:
        """Values of a facet and how many records have them, or the range of a number."""
        if by == "tag":
            return _tags_facet(records, tags.all())
        found = records.facet(by)
        return not_ready() if found is None else _about(found)

    @made.post("/view/counts")
    async def counts(request: Request, by: str) -> Any:
        """How many of the records that a query finds, without its condition on this facet, have
        each value that `/view/facet` lists, or lie in each of `BINS` parts of a number's range."""
        query = RecordQuery.parse(await json_of(request), total)

        def counted() -> Any:
            others = {name: one for name, one in query.where.items() if name != by}
            found = records.find(RecordQuery(query.records, others))
            if found is None:
                return not_ready()
            if by == "tag":
                return _tag_counts(records, tags.all(), found)
            facet = records.facet(by)
            return not_ready() if facet is None else _counts(facet, found)

        return await run_in_threadpool(counted)

    @made.post("/view/gallery")
    async def gallery(
        request: Request,
        start: Annotated[int, Query(ge=0, le=2**53)] = 0,
        count: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 48,
    ) -> Any:
        """A page of the records that a query finds."""
        query = RecordQuery.parse(await json_of(request), total)

        def page() -> Any:
            found = records.find(query)
            if found is None:
                return not_ready()
            chosen = found[start : start + count].tolist()
            sorting = query.sort if query.sort not in ("", "key") else ""
            facet = records.facet(sorting) if sorting else None
            parts, tagged = records.facet("part"), tags.all()
            return {
                "total": len(found),
                "start": start,
                "records": [
                    {
                        "number": n,
                        "key": embedding_map.keys[n],
                        "part": parts and parts.at(n),
                        "tags": [t for t, keys in tagged.items() if embedding_map.keys[n] in keys],
                        "value": facet and facet.at(n),
                    }
                    for n in chosen
                ],
            }

        return await run_in_threadpool(page)

    @made.get("/view/tiles")
    def tiles(field: str, n: Annotated[list[int], Query(max_length=MAX_TILES)] = []) -> Any:  # noqa: B006
        """A field of some records as it shows itself in little room."""
        if field not in dataset.fields:
            raise Refused(404, f"there is no field {shortened(field)!r}")
        return [_tile(dataset, value, thumbnails, checked_number(i, total), field) for i in n]

    @made.get("/view/thumbnail/{number}/{field}")
    def thumbnail(number: int, field: str) -> Response:
        checked_number(number, total)
        if field not in dataset.fields:
            raise Refused(404, f"there is no field {shortened(field)!r}")
        picture = thumbnails.get(number, field)
        headers = {"cache-control": "max-age=600"}
        return Response(picture, media_type=media_type(picture), headers=headers)

    def chosen_of(content: dict[str, Any]) -> np.ndarray | None:
        """Numbers of {"records": […]} or {"query": {…}}."""
        if "query" in content:
            return records.find(RecordQuery.parse(content["query"], total))
        return np.array(checked_records(content.get("records"), total), dtype=np.int64)

    @made.post("/view/gallery/csv")
    async def export(request: Request) -> Any:
        """Keys, parts, labels and tags of {"records": […]} or {"query": {…}} as CSV."""
        content = _checked(await json_of(request), ("records", "query"))

        def table() -> Any:
            chosen = chosen_of(content)
            if chosen is None:
                return not_ready()
            parts, tagged = records.facet("part"), tags.all()
            rows = [
                [
                    embedding_map.keys[n],
                    parts and parts.at(n),
                    *(plain(v[n]) for v in embedding_map.labels.values()),
                    *("x" if embedding_map.keys[n] in keys else "" for keys in tagged.values()),
                ]
                for n in chosen.tolist()
            ]
            named = [f"tag: {tag}" for tag in tagged]
            return as_csv(["record", "split", *embedding_map.labels, *named], rows, "gallery")

        return await run_in_threadpool(table)

    @made.get("/view/tags")
    def listed() -> Any:
        """The tags, how many records have them, and how many of those are not on this page."""
        known = embedding_map.number_of
        return [
            {"tag": tag, "records": len(keys), "elsewhere": sum(k not in known for k in keys)}
            for tag, keys in tags.all().items()
        ]

    @made.post("/view/tags")
    async def change(request: Request) -> Any:
        """{"tag", "remove": bool, and "records": […] or "query": {…}}: tag these records, or take
        the tag from them."""
        content = _checked(await json_of(request), ("tag", "remove", "records", "query"))
        tag = content.get("tag")
        if not isinstance(tag, str):
            raise Refused(422, "tag is a text")

        def changed() -> Any:
            chosen = chosen_of(content)
            if chosen is None:
                return not_ready()
            keys = [embedding_map.keys[n] for n in chosen.tolist()]
            act = tags.remove if content.get("remove", False) else tags.add
            return {"changed": act(tag, keys), "records": len(keys)}

        return await run_in_threadpool(changed)

    @made.delete("/view/tags")
    def forget(tag: str) -> Any:
        """Take a tag from all records, those that are not on this page too."""
        return {"changed": tags.remove(tag)}

    @made.get("/view/tags.csv")
    def exported(tag: str) -> Response:
        """The keys with a tag as CSV."""
        return as_csv(["record"], [[key] for key in sorted(tags.keys([tag]))], "tagged")

    @made.post("/view/without")
    async def without(request: Request) -> Any:
        """{"tags": […]} -> the command that trains without the records that have any of them."""
        content = _checked(await json_of(request), ("tags",))
        named = content.get("tags")
        if not isinstance(named, list) or not named or not all(isinstance(t, str) for t in named):
            raise Refused(422, "tags is a list of tags, at least one")

        def written() -> Any:
            left_out = tags.keys(named)
            return asdict(train_without(run, method, dataset, left_out, sorted(set(named))))

        return await run_in_threadpool(written)


def _checked(content: object, names: Sequence[str]) -> dict[str, Any]:
    """Raises Refused for what is no object of these names, and for two kinds of choice."""
    if not isinstance(content, dict) or not set(content) <= set(names):
        raise Refused(422, f"expected an object with {', '.join(names)}")
    if "query" in names and ("query" in content) == ("records" in content):
        raise Refused(422, "say which records: either records, a list of numbers, or a query")
    return content


def _about(facet: Facet) -> dict[str, Any]:
    counted = _counts(facet)
    if facet.names is None:
        low, high = facet.span
        about = {"kind": "number", "low": low, "high": high, "missing": counted["missing"]}
        return about | {"bins": counted["counts"]}
    order = facet.commonest
    names = [[facet.names[i], n] for i, n in zip(order, counted["counts"])]
    more = max(0, len(order) - MAX_NAMES)
    return {"kind": "classes", "names": names, "more": more, "missing": counted["missing"]}


def _counts(facet: Facet, numbers: np.ndarray | slice = slice(None)) -> dict[str, Any]:
    """Of these records, in the order of `_about`."""
    known = facet.known[numbers]
    missing = int((~known).sum())
    if facet.names is None:
        return {"counts": _in_bins(facet.values[numbers][known], *facet.span), "missing": missing}
    counts = facet.sizes(numbers)[facet.commonest[:MAX_NAMES]]
    return {"counts": counts.tolist(), "missing": missing}


def _in_bins(values: np.ndarray, low: float, high: float) -> list[int]:
    """How many lie in each of `BINS` equal parts of a range."""
    if high <= low:
        return [len(values)] + [0] * (BINS - 1)
    counts: list[int] = np.histogram(values, bins=BINS, range=(low, high))[0].tolist()
    return counts


def _tags_facet(records: RecordFilter, tagged: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    counted = _tag_counts(records, tagged)
    names = [[tag, n] for tag, n in zip(tagged, counted["counts"])]
    return {"kind": "classes", "names": names, "more": 0, "missing": counted["missing"]}


def _tag_counts(
    records: RecordFilter,
    tagged: Mapping[str, frozenset[str]],
    numbers: np.ndarray | slice = slice(None),
) -> dict[str, Any]:
    """Of these records, how many have each tag, and how many none."""
    counts = [int(records.tag_mask(keys)[numbers].sum()) for keys in tagged.values()]
    untagged = ~records.tag_mask(frozenset().union(*tagged.values()))
    return {"counts": counts, "missing": int(untagged[numbers].sum())}


def _tile(
    dataset: Dataset, value: Value, thumbnails: Thumbnails, number: int, field: str
) -> dict[str, Any]:
    """What a tile shows: a text, cells or curves; else a thumbnail is made, to be fetched."""
    modality = dataset.fields[field]
    try:
        found = value(number, field)
    except Refused as error:
        return {"number": number, "reason": error.detail}
    shown = dict(modality.card(found))
    if "text" in shown:
        shown["text"] = shortened(str(shown["text"]), MAX_TEXT)
    if "cells" in shown:
        cells = list(shown["cells"].items())
        shown |= {"cells": dict(cells[:MAX_CELLS]), "more": max(0, len(cells) - MAX_CELLS)}
    if not shown:
        thumbnails.keep(number, field, modality.show(found))
    about = {"number": number, "kind": name_of(modality), "says": modality.describe(found)}
    return about | {"plays": modality.sound(found) is not None} | shown
