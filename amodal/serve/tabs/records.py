"""Records: one of them as its fields show themselves, and the lists of odd ones."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
from fastapi import APIRouter, Query, Request, Response
from PIL import Image

from amodal.data import Dataset
from amodal.modalities import BadValue, name_of
from amodal.modalities.shared.base import shortened
from amodal.serve import runs
from amodal.serve.bodies import read_body
from amodal.serve.embedding_map import MAX_PAIRS, EmbeddingMap
from amodal.serve.limits import Limits, Refused
from amodal.serve.tabs._responses import checked_number, not_ready, plain
from amodal.serve.values import parse_json

SAME = 0.99
"""The cosine from which two records count as nearly the same, unless another is asked for."""
Least = Annotated[float, Query(ge=0.5, le=1)]


Value = Callable[[int, str], np.ndarray]
"""(number of a record, field) -> its decoded value; raises Refused where there is none."""


def reader_of(embedding_map: EmbeddingMap, dataset: Dataset) -> Value:
    """Decodes values of the records of a map."""
    place = {key: i for i, key in enumerate(dataset.keys)}

    def value(number: int, field: str) -> np.ndarray:
        if (
            not 0 <= number < len(embedding_map.keys)
            or field not in dataset.fields
            or embedding_map.keys[number] not in place
        ):
            raise Refused(404, "there is no such record or field in this data")
        try:
            found = dataset.value(place[embedding_map.keys[number]], field)
        except BadValue as error:
            raise Refused(404, f"not readable: {error}") from None
        if found is None:
            raise Refused(404, "this record does not have this field")
        return found

    return value


def add(
    made: APIRouter,
    run: Path,
    embedding_map: EmbeddingMap,
    dataset: Dataset,
    value: Value,
    limits: Limits,
) -> None:
    @made.get("/view/find")
    def find(key: str) -> Any:
        """The numbers of records whose key holds a text, up to 20."""
        exactly, text = (
            [embedding_map.number_of[key]] if key in embedding_map.number_of else [],
            key.lower(),
        )
        found = itertools.islice(
            (i for i, k in enumerate(embedding_map.keys) if text in k.lower() and i not in exactly),
            20,
        )
        return [{"number": i, "key": embedding_map.keys[i]} for i in [*exactly, *found][:20]]

    @made.get("/view/keys")
    def keys(n: Annotated[list[int], Query(max_length=300)] = []) -> Any:  # noqa: B006
        """The names of some records."""
        return [embedding_map.keys[i] if 0 <= i < len(embedding_map.keys) else "" for i in n]

    @made.post("/view/selection")
    async def selection(request: Request) -> Response:
        """A JSON list of numbers of records -> CSV: their keys and labels."""
        body = await read_body(request, limits)
        chosen = parse_json(body, limits) if isinstance(body, bytes) else None
        if not isinstance(chosen, list) or not all(type(n) is int for n in chosen):
            raise Refused(422, "expected a list of numbers of records")
        rows = [
            [
                embedding_map.keys[checked_number(n, len(embedding_map.keys))],
                *(plain(v[n]) for v in embedding_map.labels.values()),
            ]
            for n in chosen
        ]
        return as_csv(["record", *embedding_map.labels], rows, "selection")

    @made.get("/view/record/{number}")
    def record(number: int) -> Any:
        checked_number(number, len(embedding_map.keys))
        fields = {}
        for field, modality in dataset.fields.items():
            try:
                found = value(number, field)
            except Refused:
                continue
            about = {"kind": name_of(modality), "says": modality.describe(found)}
            plays = modality.sound(found) is not None
            fields[field] = about | {"plays": plays} | modality.card(found)
        labels = {name: plain(values[number]) for name, values in embedding_map.labels.items()}
        return {
            "number": number,
            "key": embedding_map.keys[number],
            "labels": labels,
            "fields": fields,
        }

    @made.get("/view/record/{number}/{field}.png")
    def picture(number: int, field: str) -> Response:
        stream = io.BytesIO()
        found = value(number, field)
        Image.fromarray(dataset.fields[field].show(found)).save(stream, "PNG")
        return Response(
            stream.getvalue(), media_type="image/png", headers={"cache-control": "max-age=600"}
        )

    @made.get("/view/record/{number}/{field}.wav")
    def sound(number: int, field: str) -> Response:
        played = (
            dataset.fields[field].sound(value(number, field)) if field in dataset.fields else None
        )
        if played is None:
            raise Refused(404, f"{field} is no sound")
        samples, rate = played
        stream = io.BytesIO()
        soundfile.write(stream, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
        return Response(stream.getvalue(), media_type="audio/wav")

    def listing(what: str, field: str, least: float) -> tuple[list[str], list[list[Any]]] | None:
        """Column names and rows; None while it is computed."""
        if what == "quarantine":
            return ["record", "field", "reason"], [
                [b.key, b.field, b.reason] for b in runs.quarantined(run)
            ]
        embedding_map.column([field] if field else [])
        if what == "outliers":
            found = embedding_map.in_background("outliers", field)
            return found and (
                ["record", "likeness to its nearest"],
                [[embedding_map.keys[n], round(s, 4)] for n, s in found],
            )
        if what == "near_duplicates":
            found = embedding_map.in_background("near_duplicates", field, least)
            rows = [
                [embedding_map.keys[a], embedding_map.keys[b], round(s, 4)]
                for a, b, s in found or []
            ]
            return None if found is None else (["record", "near duplicate", "cosine"], rows)
        raise Refused(
            404,
            f"no list is called {shortened(what)!r}; there are quarantine, outliers, "
            "near_duplicates",
        )

    @made.get("/view/list/{what}")
    def listed(what: str, field: str = "", least: Least = SAME) -> Any:
        found = listing(what, field, least)
        if found is None:
            return not_ready()
        numbers = [[embedding_map.number_of.get(cell, -1) for cell in row[:2]] for row in found[1]]
        return {
            "columns": found[0],
            "rows": found[1],
            "numbers": numbers,
            "more": len(numbers) >= MAX_PAIRS,
        }

    @made.get("/view/csv/{what}")
    def exported(what: str, field: str = "", least: Least = SAME) -> Any:
        found = listing(what, field, least)
        if found is None:
            return not_ready()
        return as_csv(*found, what)


def as_csv(columns: list[str], rows: list[list[Any]], name: str) -> Response:
    stream = io.StringIO()
    csv.writer(stream).writerows([map(cell_of, columns), *(map(cell_of, row) for row in rows)])
    named = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(stream.getvalue(), media_type="text/csv", headers=named)


def cell_of(cell: object) -> object:
    """A cell of CSV: quoted if it begins like a formula, which spreadsheets would run."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
