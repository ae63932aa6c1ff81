"""`amodal view`: the page in the browser. The routes are a router, so that they can stand beside
those of `app`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Response

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.data.quarantine import Quarantine
from amodal.data.remote import training_data_of
from amodal.evaluate.labels import is_number
from amodal.modalities import Modality
from amodal.modalities.shared.base import shortened
from amodal.progress import Bar
from amodal.serve import runs
from amodal.serve.attributes import Attributes
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Limits, Refused
from amodal.serve.service import Service
from amodal.serve.tabs import fields, records, search
from amodal.serve.tabs import map as atlas_map

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Number = Annotated[int, Query(ge=0)]


def router(
    run: Path, *, service: Service | None = None, dataset: Dataset | None = None
) -> APIRouter:
    """The page and what it asks for. service: of the model, whose index is shown; dataset: the
    records that were indexed. Without them (a run that still trains) there is the tab Run alone."""
    made = APIRouter(include_in_schema=False)
    whole = service is not None and dataset is not None
    tabs = ["map", "search", "run", "records", "fields"] if whole else ["run"]
    static = {
        f.name: f.read_bytes()
        for f in files("amodal.serve").joinpath("static").iterdir()
        if f.is_file()
    }

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
    def other_run(name: str, since: Number = 0) -> Any:
        found = runs.beside(run)
        if name not in found:
            raise Refused(404, f"there is no run {shortened(name)!r} beside this one")
        return runs.measures(found[name], since)

    if not whole:

        @made.get("/view/about")
        def about_run() -> Any:
            return {
                "run": run.resolve().name,
                "tabs": tabs,
                "fields": {},
                "labels": {},
                "records": 0,
            }

        return made

    index = service.shelf.fresh().index
    if index is None or not len(index):
        raise AmodalError(
            f"there is no index of {run} to show; make one with `amodal index RUN --data DIR`"
        )
    tested = [key for key, part in zip(dataset.keys, dataset.parts.tolist()) if part == 2]
    atlas = EmbeddingMap(
        index, run / "view", tested=tested, unsigned=service.encoder.similarity == "abs_cosine"
    )
    facts = Attributes(dataset)
    label = next(iter(atlas.labels), "")
    soon = [
        ("layout", "", atlas.way),
        ("outliers", ""),
        ("twins", "", records.SAME),
        ("retrieval", atlas.fields),
    ]
    soon += [("probe", atlas.fields, label), ("missing", label)] if label else []
    if len(atlas.shown) < len(atlas.keys):
        soon.append(("column", ()))  # of a million it takes seconds
    for asked in soon:  # to be there when the page asks for them
        atlas.later(*asked)
    atlas_map.add(made, atlas, facts)
    records.add(made, run, atlas, dataset, service.limits)
    search.add(made, atlas, service)
    fields.add(made, run, atlas)

    @made.get("/view/about")
    def about() -> Any:
        return {
            "run": run.resolve().name,
            "method": service.model.config.get("method", ""),
            "tabs": tabs,
            "fields": {name: m.kind for name, m in service.model.fields.items()},
            "inputs": {name: _input(m) for name, m in service.model.fields.items()},
            "indexed": list(atlas.fields),
            "labels": {
                name: "number" if is_number(v) else "classes" for name, v in atlas.labels.items()
            },
            "facts": facts.names,
            "records": len(atlas.keys),
            "shown": len(atlas.shown),
            "first": atlas.fullest,
            "data": dataset.name,
        }

    return made


def _input(modality: Modality) -> dict[str, Any]:
    """How a page asks for a value of a field."""
    return {
        "placeholder": modality.placeholder,
        "accept": modality.accepts or ",".join(sorted(modality.suffixes)),
        "prose": modality.takes_prompts,
        "label": "" if modality.placeholder or modality.self_explaining else modality.kind,
    }


def _file(static: dict[str, bytes], name: str) -> Response:
    if name not in static:
        raise Refused(404, "there is no such file")
    headers = {"content-security-policy": POLICY, "cache-control": "no-cache"}
    return Response(
        static[name], media_type=TYPES.get(Path(name).suffix, "text/plain"), headers=headers
    )


def application(
    run: str | Path,
    *,
    data: str | None = None,
    device: str = "auto",
    hosts=None,
    progress: bool = False,
) -> FastAPI:
    """`app` of a run with the page on it; records that its index does not hold yet are indexed. A
    run without a model yet shows how it trains. data: where the run says it learnt from, unless
    given; progress: show a bar on the terminal. Raises AmodalError."""
    from amodal.inference.embed import unreadable
    from amodal.model import load
    from amodal.serve.api import _errors, app
    from amodal.serve.metrics import Metrics
    from amodal.serve.middleware import Guard

    run = Path(run)
    if not (run / "model.safetensors").exists():
        if not (run / "metrics.jsonl").exists():
            raise no_run(run)
        made = FastAPI(title="amodal", docs_url=None, redoc_url=None, openapi_url=None)
        made.add_middleware(Guard, limits=Limits(), metrics=Metrics(), token="", hosts=hosts)
        _errors(made)
        made.include_router(router(run))
        return made
    model = load(run, device=device)
    try:
        dataset = model.read(data or training_data_of(model.config))
    except AmodalError as error:
        if data is not None:
            raise
        raise AmodalError(
            f"{error} (the data that {run} learnt from; if it has moved, say where it is: --data DIR)"
        ) from error
    with Bar("index", len(dataset), shown=progress) as bar:
        made = model.index(dataset, progress=lambda n: bar.step("records", by=n))
    if made.bad:  # of records that the run may not have met
        quarantine = Quarantine()
        quarantine.add(made.bad)
        quarantine.append_to(run / "view" / runs.QUARANTINE)
        if progress:
            print(unreadable(made.bad))
    made = app(model, hosts=hosts)
    made.include_router(router(run, service=made.state.service, dataset=dataset))
    return made


def no_run(run: Path) -> AmodalError:
    """Of a folder that is none of a run, with those beside it that are."""
    makes = "`amodal pretrain METHOD --data DIR --out RUN` makes one."
    beside = sorted(p.parent.name for p in run.absolute().parent.glob("*/metrics.jsonl"))
    if run.exists() or not beside:
        inside = sorted(p.parent.name for p in run.glob("*/metrics.jsonl"))
        more = f" It holds some, such as {run / inside[0]}." if inside else ""
        return AmodalError(f"{run} is no run folder.{more} {makes}")
    return unknown(f"run folder in {run.absolute().parent}", run.name, beside, makes)


def view(
    run: str | Path,
    *,
    data: str | None = None,
    port: int = 8001,
    device: str = "auto",
    browse: bool = False,
    progress: bool = True,
) -> None:
    """Show a run in the browser, for this machine only, until it is interrupted. port: 0 for any
    that is free. Raises AmodalError where there is no such run, and for a port that is taken."""
    import threading
    import webbrowser

    import uvicorn

    from amodal.serve.server import LOCAL, configured, listening

    with listening("127.0.0.1", port) as taken:  # before what takes long
        made = application(run, data=data, device=device, hosts=LOCAL, progress=progress)
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        print(f"{address} shows {run}. Stop it with Ctrl-C.", flush=True)
        if browse:
            threading.Timer(1.0, webbrowser.open, [address]).start()
        uvicorn.Server(configured(made)).run([taken])
