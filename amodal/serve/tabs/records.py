"""Records: one of them as its fields show themselves, and the lists of odd ones."""

from __future__ import annotations

import csv
import io
import itertools
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
from amodal.serve.bodies import body_of
from amodal.serve.embedding_map import PAIRS, EmbeddingMap
from amodal.serve.limits import Limits, Refused
from amodal.serve.tabs._responses import plain, there, wait
from amodal.serve.values import parsed

SAME = 0.99
"""The cosine from which two records count as nearly the same, unless another is asked for."""
Least = Annotated[float, Query(ge=0.5, le=1)]


def add(made: APIRouter, run: Path, atlas: EmbeddingMap, dataset: Dataset, limits: Limits) -> None:
    place = {key: i for i, key in enumerate(dataset.keys)}

    def value(number: int, field: str) -> np.ndarray:
        if (
            not 0 <= number < len(atlas.keys)
            or field not in dataset.fields
            or atlas.keys[number] not in place
        ):
            raise Refused(404, "there is no such record or field in this data")
        try:
            found = dataset.value(place[atlas.keys[number]], field)
        except BadValue as error:
            raise Refused(404, f"not readable: {error}") from None
        if found is None:
            raise Refused(404, "this record does not have this field")
        return found

    @made.get("/view/find")
    def find(key: str) -> Any:
        """The numbers of records whose key holds a text, up to 20."""
        exactly, said = [atlas.at[key]] if key in atlas.at else [], key.lower()
        found = itertools.islice(
            (i for i, k in enumerate(atlas.keys) if said in k.lower() and i not in exactly), 20
        )
        return [{"number": i, "key": atlas.keys[i]} for i in [*exactly, *found][:20]]

    @made.get("/view/keys")
    def keys(n: Annotated[list[int], Query(max_length=300)] = []) -> Any:  # noqa: B006
        """The names of some records."""
        return [atlas.keys[i] if 0 <= i < len(atlas.keys) else "" for i in n]

    @made.post("/view/selection")
    async def selection(request: Request) -> Response:
        """A JSON list of numbers of records -> CSV: their keys and labels."""
        body = await body_of(request, limits)
        chosen = parsed(body, limits) if isinstance(body, bytes) else None
        if not isinstance(chosen, list) or not all(type(n) is int for n in chosen):
            raise Refused(422, "expected a list of numbers of records")
        rows = [
            [atlas.keys[there(n, len(atlas.keys))], *(plain(v[n]) for v in atlas.labels.values())]
            for n in chosen
        ]
        return as_csv(["record", *atlas.labels], rows, "selection")

    @made.get("/view/record/{number}")
    def record(number: int) -> Any:
        there(number, len(atlas.keys))
        fields = {}
        for field, modality in dataset.fields.items():
            try:
                found = value(number, field)
            except Refused:
                continue
            about = {"kind": name_of(modality), "says": modality.describe(found)}
            plays = modality.sound(found) is not None
            fields[field] = about | {"plays": plays} | modality.card(found)
        labels = {name: plain(values[number]) for name, values in atlas.labels.items()}
        return {"number": number, "key": atlas.keys[number], "labels": labels, "fields": fields}

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

    def listing(what: str, field: str, least: float) -> tuple[list[str], list[list]] | None:
        """Column names and rows; None while it is computed."""
        if what == "quarantine":
            return ["record", "field", "reason"], [
                [b.key, b.field, b.reason] for b in runs.quarantined(run)
            ]
        atlas.column([field] if field else [])
        if what == "outliers":
            found = atlas.later("outliers", field)
            return found and (
                ["record", "likeness to its nearest"],
                [[atlas.keys[n], round(s, 4)] for n, s in found],
            )
        if what == "twins":
            found = atlas.later("twins", field, least)
            rows = [[atlas.keys[a], atlas.keys[b], round(s, 4)] for a, b, s in found or []]
            return None if found is None else (["record", "its twin", "cosine"], rows)
        raise Refused(
            404, f"no list is called {shortened(what)!r}; there are quarantine, outliers, twins"
        )

    @made.get("/view/list/{what}")
    def listed(what: str, field: str = "", least: Least = SAME) -> Any:
        found = listing(what, field, least)
        if found is None:
            return wait()
        numbers = [[atlas.at.get(cell, -1) for cell in row[:2]] for row in found[1]]
        return {
            "columns": found[0],
            "rows": found[1],
            "numbers": numbers,
            "more": len(numbers) >= PAIRS,
        }

    @made.get("/view/csv/{what}")
    def exported(what: str, field: str = "", least: Least = SAME) -> Any:
        found = listing(what, field, least)
        if found is None:
            return wait()
        return as_csv(*found, what)


def as_csv(columns: list[str], rows: list[list], name: str) -> Response:
    stream = io.StringIO()
    csv.writer(stream).writerows([map(cell_of, columns), *(map(cell_of, row) for row in rows)])
    named = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(stream.getvalue(), media_type="text/csv", headers=named)


def cell_of(cell) -> Any:
    """Spreadsheets run what begins like a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
