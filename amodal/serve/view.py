"""`amodal view`: the page in the browser. Its routes are a router beside those of `app`."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Response

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.data.attributes import Attributes
from amodal.data.quarantine import Quarantine
from amodal.data.remote import training_data_of
from amodal.evaluate.labels import is_number
from amodal.modalities import Modality
from amodal.modalities.shared.base import shortened
from amodal.progress import Bar
from amodal.search import Index
from amodal.serve import runs
from amodal.serve.embedding_map import EmbeddingMap
from amodal.serve.limits import Limits, Refused
from amodal.serve.map_clusters import MapClusters
from amodal.serve.record_filter import RecordFilter
from amodal.serve.service import Service
from amodal.serve.tabs import compare, fields, gallery, records, search, yardsticks
from amodal.serve.tabs import map as map_tab
from amodal.serve.tags import Tags

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Number = Annotated[int, Query(ge=0)]


def router(
    run: Path,
    *,
    service: Service | None = None,
    dataset: Dataset | None = None,
    comparison: Path | None = None,
) -> APIRouter:
    """The routes of the page.

    Args:
        run: The run folder.
        service: Of the model, whose index is shown.
        dataset: The records that were indexed. Without it and `service` (a run that still trains)
            there is the tab Run alone.
        comparison: The folder of the comparison that the run has won.
    """
    made = APIRouter(include_in_schema=False)
    whole = service is not None and dataset is not None
    tabs = ["map", "gallery", "search", "run", "yardsticks", "records", "fields"] if whole else []
    if not whole and (comparison is None or (run / "metrics.jsonl").exists()):
        tabs.append("run")
    if comparison is not None:
        tabs.insert(0, "compare")
        compare.add(made, comparison)
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
        return runs.run_metrics(run, since)

    @made.get("/view/runs")
    def other_runs() -> Any:
        return list(runs.sibling_runs(run))

    @made.get("/view/runs/{name}")
    def other_run(name: str, since: Number = 0) -> Any:
        found = runs.sibling_runs(run)
        if name not in found:
            raise Refused(404, f"there is no run {shortened(name)!r} beside this one")
        return runs.run_metrics(found[name], since)

    if service is None or dataset is None:

        @made.get("/view/about")
        def about_run() -> Any:
            name = (run if comparison is None else comparison).resolve().name
            return {"run": name, "tabs": tabs, "fields": {}, "labels": {}, "records": 0}

    else:
        _add_tabs(made, run, tabs, service, dataset)
    return made


def _add_tabs(
    made: APIRouter, run: Path, tabs: list[str], service: Service, dataset: Dataset
) -> None:
    """The routes of the tabs that show an index."""
    index = service.index_cache.refreshed().index
    if not isinstance(index, Index) or not len(index):
        raise AmodalError(
            f"there is no index of {run} to show; make one with `amodal index RUN --data DIR`"
        )
    test_keys = [key for key, part in zip(dataset.keys, dataset.parts.tolist()) if part == 2]
    unsigned = service.encoder.similarity == "abs_cosine"
    embedding_map = EmbeddingMap(index, run / "view", test_keys=test_keys, unsigned=unsigned)
    attributes = Attributes(dataset)
    clusters = MapClusters(embedding_map, attributes)
    _precompute(embedding_map, clusters)
    map_tab.add(made, embedding_map, attributes, clusters)
    value = records.reader_of(embedding_map, dataset)
    records.add(made, run, embedding_map, dataset, value, service.limits)
    method = str(service.model.config.get("method", ""))
    tags = Tags(run / "view" / "tags.json")
    found = RecordFilter(embedding_map, dataset, attributes, tags, clusters)
    gallery.add(made, run, found, value, service.limits, method=method)
    search.add(made, embedding_map, service)
    fields.add(made, run, embedding_map)
    yardsticks.add(made, run, str(dataset.path or "DIR"))

    @made.get("/view/about")
    def about() -> Any:
        labels, named = embedding_map.labels.items(), dataset.fields.items()
        return {
            "run": run.resolve().name,
            "method": method,
            "tabs": tabs,
            "fields": {name: m.kind for name, m in service.model.fields.items()},
            "inputs": {name: _input(m) for name, m in service.model.fields.items()},
            "indexed": list(embedding_map.fields),
            "labels": {name: "number" if is_number(v) else "classes" for name, v in labels},
            "attributes": attributes.names,
            "records": len(embedding_map.keys),
            "shown": len(embedding_map.drawn),
            "first": embedding_map.most_complete,
            "data": dataset.name,
            "stamp": embedding_map.stamp,
            "colour": map_tab.default_colour(embedding_map),
            "in_data": list(dataset.fields),
            "pictured": next(
                (n for n, m in named if m.self_explaining), next(iter(dataset.fields))
            ),
        }


def _precompute(embedding_map: EmbeddingMap, clusters: MapClusters) -> None:
    """Begin what the page will ask for, so that it is there by then."""
    embedding_map.in_background("layout", "", "pca")  # it is shown until a better one is there
    embedding_map.in_background("layout", "", embedding_map.projection)
    embedding_map.in_background("outliers", "")
    embedding_map.in_background("near_duplicates", "", records.SAME)
    embedding_map.in_background("retrieval", embedding_map.fields)
    if label := next(iter(embedding_map.labels), ""):
        embedding_map.in_background("probe", embedding_map.fields, label)
        embedding_map.in_background("missing", label)
    if len(embedding_map.compared) < len(embedding_map.keys):
        embedding_map.in_background("column", ())  # of a million records it takes seconds
    clusters.facet()


def _input(modality: Modality) -> dict[str, Any]:
    """How the page lets people enter a value of a field."""
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
    hosts: Collection[str] | None = None,
    progress: bool = False,
) -> FastAPI:
    """`app` of a run with the page on it. A run without a model yet shows how it trains.

    Args:
        run: The run folder, or that of a comparison, whose winner is shown beside it. Records that
            its index does not hold yet are indexed.
        data: Where the records are; what the run was trained on if None.
        device: auto, cpu, cuda, cuda:N.
        hosts: See `app`.
        progress: Show a bar on the terminal.

    Raises:
        AmodalError: Without a run, or without its data.
    """
    from amodal.inference.embed import unreadable
    from amodal.model import load
    from amodal.serve.api import add_error_handlers, app
    from amodal.serve.metrics import Metrics
    from amodal.serve.middleware import LimitsMiddleware

    comparison = compare.comparison_of(Path(run))
    run = Path(run) if comparison is None else comparison / compare.RUN
    if not (run / "model.safetensors").exists():
        if comparison is None and not (run / "metrics.jsonl").exists():
            raise no_run(run)
        made = FastAPI(title="amodal", docs_url=None, redoc_url=None, openapi_url=None)
        made.add_middleware(
            LimitsMiddleware, limits=Limits(), metrics=Metrics(), token="", hosts=hosts
        )
        add_error_handlers(made)
        made.include_router(router(run, comparison=comparison))
        return made
    model = load(run, device=device)
    try:
        dataset = model.read(data or training_data_of(model.config))
    except AmodalError as error:
        if data is not None:
            raise
        raise AmodalError(
            f"{error} (the data that {run} learnt from; if it has moved, say where it is: --data "
            "DIR)"
        ) from error
    with Bar("index", len(dataset), shown=progress) as bar:
        index = model.index(dataset, progress=lambda n: bar.step("records", by=n))
    if index.bad:  # of records that the run may not have met
        quarantine = Quarantine()
        quarantine.add(index.bad)
        quarantine.append_to(run / "view" / runs.QUARANTINE)
        if progress:
            print(unreadable(index.bad))
    made = app(model, hosts=hosts)
    made.include_router(
        router(run, service=made.state.service, dataset=dataset, comparison=comparison)
    )
    return made


def no_run(run: Path) -> AmodalError:
    """The error for a folder that is no run, with the runs beside it."""
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
    """Show a run in the browser, for this machine only, until it is interrupted.

    Args:
        run: The run folder, or that of a comparison.
        data: Where the records are; what the run was trained on if None.
        port: 0 for any that is free.
        device: auto, cpu, cuda, cuda:N.
        browse: Open the browser.
        progress: Show a bar on the terminal.

    Raises:
        AmodalError: Where there is no such run, and for a port that is taken.
    """
    import threading
    import webbrowser

    import uvicorn

    from amodal.serve.server import LOCAL, listen, uvicorn_config

    with listen("127.0.0.1", port) as bound:  # before what takes long
        made = application(run, data=data, device=device, hosts=LOCAL, progress=progress)
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        print(f"{address} shows {run}. Stop it with Ctrl-C.", flush=True)
        if browse:
            threading.Timer(1.0, webbrowser.open, [address]).start()
        uvicorn.Server(uvicorn_config(made)).run([bound])
