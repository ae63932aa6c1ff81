"""`amodal view`: the page in the browser. The routes are a router, so that they can stand beside those of `app`."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
from fastapi import APIRouter, FastAPI, Query, Request, Response
from PIL import Image

from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.evaluate._labels import classes_of, is_number
from amodal.modalities import BadValue, name_of
from amodal.modalities._base import shortened
from amodal.serve import runs
from amodal.serve.atlas import PAIRS, Atlas
from amodal.serve.bodies import body_of
from amodal.serve.limits import Limits, Refused
from amodal.serve.service import Service, finite

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CLASSES = 40
"""Values of a label that get a name on the map; the rarer ones are one."""
SAME = 0.99
"""The cosine from which two records count as nearly the same, unless another is asked for."""
Number = Annotated[int, Query(ge=0)]
Least = Annotated[float, Query(ge=0.5, le=1)]
Senses = Annotated[list[str], Query()]


def router(run: Path, *, service: Service | None = None, dataset: Dataset | None = None) -> APIRouter:
    """The page and what it asks for. service: of the model, whose index is shown; dataset: the records that were indexed. Without them (a
    run that still trains) there is the tab Run alone."""
    made = APIRouter(include_in_schema=False)
    whole = service is not None and dataset is not None
    tabs = ["map", "search", "run", "records", "senses"] if whole else ["run"]
    static = {f.name: f.read_bytes() for f in files("amodal.serve").joinpath("static").iterdir() if f.is_file()}

    @made.get("/")
    def home() -> Response:
        return _file(static, "index.html")

    @made.get("/view/static/{name}")
    def asset(name: str) -> Response:
        return _file(static, name)

    @made.get("/view/run")
    def run_measures(since: Number = 0) -> Any:
        return runs.measures(run, since)

    @made.get("/view/runs")
    def other_runs() -> Any:
        return list(runs.beside(run))

    @made.get("/view/runs/{name}")
    def other_run(name: str) -> Any:
        found = runs.beside(run)
        if name not in found:
            raise Refused(404, f"there is no run {shortened(name)!r} beside this one")
        return runs.measures(found[name])

    if not whole:

        @made.get("/view/about")
        def about_run() -> Any:
            return {"run": run.resolve().name, "tabs": tabs, "senses": {}, "labels": {}, "records": 0}

        return made

    index = service.shelf.fresh().index
    if index is None or not len(index):
        raise AmodalError(f"there is no index of {run} to show; make one with `amodal index RUN --data DIR`")
    tested = [key for key, part in zip(dataset.keys, dataset.parts.tolist()) if part == 2]
    atlas = Atlas(index, run / "view", tested=tested, unsigned=getattr(service.encoder, "unsigned", False))
    for asked in (("layout", ""), ("outliers", ""), ("twins", "", SAME)):  # to be there when the page asks for them
        atlas.later(*asked)
    _records(made, run, atlas, dataset)
    _map(made, atlas)
    _search(made, atlas, service)
    _senses(made, run, atlas)

    @made.get("/view/about")
    def about() -> Any:
        return {
            "run": run.resolve().name,
            "method": service.model.config.get("method", ""),
            "tabs": tabs,
            "senses": {s: name_of(service.model.fields[s]) for s in service.model.fields},
            "indexed": list(atlas.senses),
            "labels": {name: "number" if is_number(v) else "classes" for name, v in atlas.labels.items()},
            "records": len(atlas.keys),
            "data": dataset.name,
        }

    return made


def _map(made: APIRouter, atlas: Atlas) -> None:
    @made.get("/view/map")
    def layout(sense: str = "") -> Any:
        """Where records lie; 202 while it is computed, then to be asked for again."""
        atlas.column([sense] if sense else [])
        found = atlas.later("layout", sense)
        if found is None:
            return _wait()
        numbers, flat = found
        xy = (flat * 65535).round().astype(int)
        return {"numbers": numbers.tolist(), "x": xy[:, 0].tolist(), "y": xy[:, 1].tolist(), "of": len(atlas.keys)}

    @made.get("/view/colour")
    def colour(by: str) -> Any:
        """A colour for each record: of `label:NAME`, `has:SENSE`, `agreement` or `count` (of senses)."""
        kind, _, name = by.partition(":")
        if kind == "label" and name in atlas.labels:
            values = atlas.labels[name]
            return _numbers(values) if is_number(values) else _classes(values)
        if kind == "has":
            return {
                "kind": "classes",
                "names": ["missing", "there"],
                "values": atlas.present(name).astype(int).tolist(),
            }
        if by == "count":
            counts = np.sum([atlas.present(s) for s in atlas.senses], axis=0)
            return _classes(np.array([f"{n} sense{'s' * (n != 1)}" for n in counts.tolist()], dtype=object))
        if by == "agreement":
            found = atlas.later("agreement")
            return _wait() if found is None else _numbers(found)
        raise Refused(404, f"there is nothing called {shortened(by)!r} to colour by")


def _records(made: APIRouter, run: Path, atlas: Atlas, dataset: Dataset) -> None:
    place = {key: i for i, key in enumerate(dataset.keys)}

    def value(number: int, sense: str) -> np.ndarray:
        if not 0 <= number < len(atlas.keys) or sense not in dataset.fields or atlas.keys[number] not in place:
            raise Refused(404, "there is no such record or sense in this data")
        try:
            found = dataset.value(place[atlas.keys[number]], sense)
        except BadValue as error:
            raise Refused(404, f"not readable: {error}") from None
        if found is None:
            raise Refused(404, "this record does not have this sense")
        return found

    @made.get("/view/find")
    def find(key: str) -> Any:
        """The numbers of records whose key holds a text, up to 20."""
        exactly = [atlas.at[key]] if key in atlas.at else []
        found = [i for i, k in enumerate(atlas.keys) if key.lower() in k.lower() and i not in exactly]
        return [{"number": i, "key": atlas.keys[i]} for i in (exactly + found)[:20]]

    @made.get("/view/keys")
    def keys(n: Annotated[list[int], Query(max_length=300)] = []) -> Any:  # noqa: B006
        """The names of some records."""
        return [atlas.keys[i] if 0 <= i < len(atlas.keys) else "" for i in n]

    @made.get("/view/record/{number}")
    def record(number: int) -> Any:
        if not 0 <= number < len(atlas.keys):
            raise Refused(404, f"there is no record {number}")
        senses = {}
        for sense, modality in dataset.fields.items():
            try:
                found = value(number, sense)
            except Refused:
                continue
            kind = name_of(modality)
            senses[sense] = {"kind": kind, "says": modality.describe(found)}
            if kind in ("text", "sequence"):
                senses[sense]["text"] = shortened(modality.text(found), 2000)
            elif kind == "table":
                senses[sense]["cells"] = {c: str(v) for c, v in modality.cells(found).items()}
        labels = {name: _plain(values[number]) for name, values in atlas.labels.items()}
        return {"number": number, "key": atlas.keys[number], "labels": labels, "senses": senses}

    @made.get("/view/record/{number}/{sense}.png")
    def picture(number: int, sense: str) -> Response:
        stream = io.BytesIO()
        found = value(number, sense)
        Image.fromarray(dataset.fields[sense].show(found)).save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png", headers={"cache-control": "max-age=600"})

    @made.get("/view/record/{number}/{sense}.wav")
    def sound(number: int, sense: str) -> Response:
        samples = value(number, sense)
        if name_of(dataset.fields[sense]) != "audio":
            raise Refused(404, f"{sense} is no sound")
        stream = io.BytesIO()
        soundfile.write(stream, np.clip(samples, -1, 1), dataset.fields[sense].rate, format="WAV", subtype="PCM_16")
        return Response(stream.getvalue(), media_type="audio/wav")

    def listing(what: str, sense: str, least: float) -> tuple[list[str], list[list]] | None:
        """Column names and rows; None while it is computed."""
        if what == "quarantine":
            return ["record", "sense", "reason"], [[b.key, b.field, b.reason] for b in runs.quarantined(run)]
        atlas.column([sense] if sense else [])
        if what == "outliers":
            found = atlas.later("outliers", sense)
            return found and (["record", "likeness to its nearest"], [[atlas.keys[n], round(s, 4)] for n, s in found])
        if what == "twins":
            found = atlas.later("twins", sense, least)
            rows = [[atlas.keys[a], atlas.keys[b], round(s, 4)] for a, b, s in found or []]
            return None if found is None else (["record", "its twin", "cosine"], rows)
        raise Refused(404, f"no list is called {shortened(what)!r}; there are quarantine, outliers, twins")

    @made.get("/view/list/{what}")
    def listed(what: str, sense: str = "", least: Least = SAME) -> Any:
        found = listing(what, sense, least)
        if found is None:
            return _wait()
        numbers = [[atlas.at.get(cell, -1) for cell in row[:2]] for row in found[1]]
        return {"columns": found[0], "rows": found[1], "numbers": numbers, "more": len(numbers) >= PAIRS}

    @made.get("/view/csv/{what}")
    def exported(what: str, sense: str = "", least: Least = SAME) -> Any:
        found = listing(what, sense, least)
        if found is None:
            return _wait()
        stream = io.StringIO()
        csv.writer(stream).writerows([found[0], *([_cell(c) for c in row] for row in found[1])])
        named = {"content-disposition": f'attachment; filename="{what}.csv"'}
        return Response(stream.getvalue(), media_type="text/csv", headers=named)


def _search(made: APIRouter, atlas: Atlas, service: Service) -> None:
    @made.post("/view/search")
    async def search(request: Request, k: Annotated[int, Query(ge=1, le=100)] = 12) -> Any:
        """A form: a part for each sense, a part `asked` of JSON {"weights": {sense: number}, "records": {number: weight}}."""
        body = await body_of(request, service.limits)
        if not isinstance(body, dict):
            raise Refused(415, "a query is a form with a part for each sense")
        weights, records = _asked(body.pop("asked", b"{}"), len(atlas.keys))
        unasked = [name for name in body if name not in service.model.fields]
        if unasked:
            raise Refused(
                422, f"there is no sense {shortened(unasked[0])!r}; there are {', '.join(service.model.fields)}"
            )
        total = torch.zeros(atlas.index.width)
        if body:
            for name, seen in zip(body, await service.see([{name: value} for name, value in body.items()])):
                total += weights.get(name, 1.0) * _unit(torch.from_numpy(finite(seen.aligned[name])))
        for number, weight in records.items():
            column = atlas.column()
            total += weight * _unit(column.values[column.rows == number].sum(0))
        if not total.norm() > 1e-6:
            raise Refused(
                422, "there is nothing to look for: give a value or a record, and weights that do not cancel out"
            )

        def ranked() -> dict:
            lists = {"": atlas.near(total, (), k)} | {s: atlas.near(total, (s,), k) for s in atlas.senses}
            return {
                s: [{"number": n, "key": atlas.keys[n], "score": v, "sense": by} for n, v, by in found]
                for s, found in lists.items()
            }

        return await asyncio.get_running_loop().run_in_executor(service.searcher, ranked)


def _senses(made: APIRouter, run: Path, atlas: Atlas) -> None:
    @made.get("/view/near/{number}")
    def near(number: int, on: Senses = [], k: Annotated[int, Query(ge=1, le=50)] = 8) -> Any:  # noqa: B006
        """Who is near a record, by the senses that are on."""
        if not 0 <= number < len(atlas.keys):
            raise Refused(404, f"there is no record {number}")
        return [{"number": n, "key": atlas.keys[n], "score": s} for n, s in atlas.alike(number, on, k)]

    @made.get("/view/probe")
    def probe(label: str, on: Senses = []) -> Any:  # noqa: B006
        """How well neighbours tell a label by the senses that are on."""
        chosen = tuple(s for s in atlas.senses if s in on) if on else ()
        if label not in atlas.labels or len(chosen) < len(set(on)):
            raise Refused(404, "there is no such label or sense")
        found = atlas.later("probe", chosen, label)
        return _wait() if found is None else found

    @made.get("/view/missing")
    def missing() -> Any:
        return runs.missing_rows(run)


def _asked(raw: bytes, records: int) -> tuple[dict[str, float], dict[int, float]]:
    try:
        said = json.loads(raw)
        weights = {str(k): float(v) for k, v in said.get("weights", {}).items()}
        numbers = {int(k): float(v) for k, v in said.get("records", {}).items()}
    except (ValueError, AttributeError, TypeError):
        raise Refused(422, 'expected {"weights": {sense: number}, "records": {number: weight}}') from None
    if not all(abs(v) <= 1e6 for v in (*weights.values(), *numbers.values())):
        raise Refused(422, "weights are numbers, not that large")
    if not all(0 <= n < records for n in numbers):
        raise Refused(404, "there is no such record")
    return weights, numbers


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector.float(), dim=0)


def _classes(values: np.ndarray) -> dict:
    """The commonest classes by name, in the order of how common they are; -1 for missing, the rest are `other`."""
    count = {c: 0 for c in classes_of(values)}
    for v in values:
        if v is not None:
            count[v] += 1
    names = sorted(count, key=lambda c: (-count[c], c))
    if len(names) > CLASSES:
        names = [*names[: CLASSES - 1], "other"]
    place = {c: i for i, c in enumerate(names)}
    return {
        "kind": "classes",
        "names": names,
        "values": [-1 if v is None else place.get(v, len(names) - 1) for v in values],
    }


def _numbers(values: np.ndarray) -> dict:
    there = values[np.isfinite(values)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
    return {"kind": "numbers", "low": low, "high": high, "values": [_plain(round(v, 5)) for v in values.tolist()]}


def _plain(value) -> Any:
    return None if value is None or isinstance(value, float) and not np.isfinite(value) else value


def _cell(cell) -> Any:
    """Spreadsheets run what begins like a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def _wait() -> Response:
    return Response('{"status":"computing"}', 202, media_type="application/json")


def _file(static: dict[str, bytes], name: str) -> Response:
    if name not in static:
        raise Refused(404, "there is no such file")
    headers = {"content-security-policy": POLICY, "cache-control": "no-cache"}
    return Response(static[name], media_type=TYPES.get(Path(name).suffix, "text/plain"), headers=headers)


def application(
    run: str | Path, *, data: str | None = None, device: str = "auto", hosts=None, progress=None
) -> FastAPI:
    """`app` of a run with the page on it; records that its index does not hold yet are indexed. A run without a model yet shows how
    it trains. data: where the run says it learnt from, unless given. Raises AmodalError."""
    from amodal.model import load
    from amodal.serve.api import _errors, app
    from amodal.serve.guard import Guard
    from amodal.serve.metrics import Metrics

    run = Path(run)
    if not (run / "model.safetensors").exists():
        if not (run / "metrics.jsonl").exists():
            raise AmodalError(f"{run} is no run folder; `amodal pretrain METHOD --data DIR --out RUN` makes one")
        made = FastAPI(title="amodal", docs_url=None, redoc_url=None, openapi_url=None)
        made.add_middleware(Guard, limits=Limits(), metrics=Metrics(), token="", hosts=hosts)
        _errors(made)
        made.include_router(router(run))
        return made
    model = load(run, device=device)
    about = model.config.get("data", {})
    dataset = model.read(data or about.get("path") or about.get("name"))
    model.index(dataset, progress=progress)
    made = app(model, hosts=hosts)
    made.include_router(router(run, service=made.state.service, dataset=dataset))
    return made


def view(
    run: str | Path,
    *,
    data: str | None = None,
    port: int = 8001,
    device: str = "auto",
    browse: bool = False,
    progress=None,
) -> None:
    """Show a run in the browser, for this machine only, until it is interrupted."""
    import threading
    import webbrowser

    import uvicorn

    from amodal.serve.server import LOCAL, configured

    made = application(run, data=data, device=device, hosts=LOCAL, progress=progress)
    address = f"http://127.0.0.1:{port}/"
    print(f"{address} shows {run}. Stop it with Ctrl-C.", flush=True)
    if browse:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(configured(made, port=port)).run()
