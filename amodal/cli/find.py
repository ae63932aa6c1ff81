"""Verbs for search: index, search, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from amodal.cli.options import listed, numbers, pairs, weights_of
from amodal.cli.own_code import NONE, Code
from amodal.cli.queries import QueryOptions, example_query, query_parts
from amodal.cli.shared import Data, Run, Where, command, show

Queries = Annotated[QueryOptions, OmitArgPrefixes]  # type: ignore[valid-type]  # made at run time
NO_QUERY = QueryOptions()


def index(
    run: Run,
    data: Data,
    out: Annotated[Path | None, arg(help="the folder; by default RUN/index")] = None,
    to: Annotated[
        str, arg(metavar="URL", help="instead of a folder: qdrant://HOST:6333/COLLECTION")
    ] = "",
    prune: Annotated[bool, arg(help="remove records that the data no longer has")] = False,
    code: Code = NONE,
) -> None:
    """Embed records into a search index; unchanged ones are skipped."""
    from amodal.errors import AmodalError
    from amodal.inference.embed import unreadable
    from amodal.progress import Bar
    from amodal.search.engine import rank_chunks
    from amodal.train import distributed

    if to and (out is not None or "://" not in to):
        raise AmodalError(
            f"--to {to}: it takes an address, such as qdrant://localhost:6333/photos, "
            "in place of --out DIR"
        )
    model = code.open(run)
    dataset = model.read(data)
    distributed.start()
    records = sum(map(len, rank_chunks(len(dataset), concurrent=bool(to))))
    with Bar("index", records, shown=distributed.rank() == 0) as bar:
        engine = model.index(
            dataset, to or out, prune=prune, progress=lambda n: bar.step("records", by=n)
        )
    if engine.bad:
        print(unreadable(engine.bad))
    if engine.stale and prune:
        print(f"{engine.stale:,} records removed from the index that are no longer in the data")
    elif engine.stale:
        print(
            f"{engine.stale:,} records in the index are no longer in the data "
            "(--prune removes them)"
        )
    query = example_query(model.fields)
    query += f" --index {to or out}" if to or out else ""
    if distributed.rank() == 0:
        note = " so far (other ranks may still be running)" if distributed.world() > 1 else ""
        print(f"{len(engine)} records in the index{note}. Next: {command('search', run)} {query}")


def search(
    run: Run,
    modality: Queries = NO_QUERY,
    query: Annotated[
        tuple[str, ...],
        arg(metavar="FIELD=VALUE", help="a value of any field; multiple values are one query"),
    ] = (),
    like: Annotated[
        tuple[str, ...], arg(metavar="KEY", help="records of the index as parts of the query")
    ] = (),
    weight: Annotated[
        tuple[str, ...],
        arg(
            metavar="PART=NUMBER",
            help="weight of text, image, …, FIELD, or like:KEY; by default 1, negative: unlike it",
        ),
    ] = (),
    k: Annotated[int, arg(help="number of records to return")] = 10,
    where: Where = (),
    fields: Annotated[
        str, arg(metavar="A,B", help="fields whose vectors are searched; by default all")
    ] = "",
    index: Annotated[str, arg(metavar="DIR|URL", help="by default RUN/index; or qdrant://…")] = "",
    ensemble: Annotated[
        tuple[Path, ...],
        arg(metavar="RUN2", help="other runs, whose scores are averaged with those of RUN"),
    ] = (),
    ensemble_weights: Annotated[
        str, arg(metavar="2,1", help="of RUN and the others; by default equal")
    ] = "",
    generate: Annotated[
        bool, arg(help="without an index: generate identifiers of records (runs of grace)")
    ] = False,
    volume: Annotated[
        bool, arg(help="rank by the volume of the query and all fields of a record (runs of gram)")
    ] = False,
    rerank: Annotated[
        int,
        arg(metavar="N", help="order the first N by the run's matching head; reads their data"),
    ] = 0,
    json: Annotated[bool, arg(help="print JSON")] = False,
    sheet: Annotated[
        Path | None, arg(metavar="FILE.png", help="draw the records found; needs their data")
    ] = None,
    data: Annotated[
        str | None,
        arg(metavar="DIR", help="the records, for --sheet and --rerank; by default of training"),
    ] = None,
    code: Code = NONE,
) -> None:
    """Search an index by text, image, audio, or a mix of them."""
    from amodal.data.remote import training_data_of
    from amodal.errors import AmodalError
    from amodal.run_ensemble import Ensemble
    from amodal.search import as_json, by_volume, picture_sheet, table
    from amodal.search import rerank as by_matching

    parts: dict[str, Any] = query_parts(modality) | pairs(query)
    if ensemble_weights and not ensemble:
        raise AmodalError("--ensemble-weights are of --ensemble RUN2, and there is none")
    if ensemble and index:
        raise AmodalError("--ensemble searches the index of each run, RUN/index; leave --index out")
    model = code.open(run)
    options: dict[str, Any] = {
        "where": pairs(where) or None,
        "fields": listed(fields),
        "like": like,
        "weights": numbers(weight),
    }
    found = max(k, rerank)
    if volume and (like or weight or ensemble or generate):
        raise AmodalError(
            "--volume takes each part of a query as it is; leave --like, --weight, --ensemble and "
            "--generate out"
        )
    if rerank and (ensemble or generate or like):
        raise AmodalError(
            "--rerank reads the query and the records by one run; leave --like, --ensemble and "
            "--generate out"
        )
    if generate:
        chosen = {"ensemble": ensemble, "where": where, "fields": fields, "index": index}
        chosen |= {"like": like, "weight": weight}
        index_options = [f"--{n}" for n, v in chosen.items() if v]
        if index_options:
            raise AmodalError(
                f"{index_options[0]} is of an index, and --generate uses none; "
                "leave one of them out"
            )
        hits = model.generate(parts, k=k)
    elif ensemble:
        runs = [model, *map(code.open, ensemble)]
        hits = Ensemble(runs, weights_of(ensemble_weights)).search(parts, k=k, **options)
    elif volume:
        hits = by_volume(
            model.open_index(index or None),
            model.encoder,
            parts,
            k=found,
            where=options["where"],
            fields=options["fields"],
        )
    else:
        hits = model.search(parts, k=found, index=index or None, **options)
    if rerank:
        records = model.read(data or training_data_of(model.config))
        hits = by_matching(hits, model.method, model.with_features(records), parts, k=k)
    print(as_json(hits)) if json else show(table(hits))
    if sheet is not None:
        picture_sheet(hits, model.read(data or training_data_of(model.config)), sheet)
        print(f"wrote {sheet}")


def serve(
    run: Run,
    host: Annotated[
        str, arg(help="0.0.0.0 for requests from other machines, which then need a token")
    ] = "127.0.0.1",
    port: int = 8000,
    index: Annotated[str, arg(metavar="DIR|URL", help="by default RUN/index; or qdrant://…")] = "",
    token_file: Annotated[
        Path | None,
        arg(metavar="FILE", help="contains the token of requests; or set AMODAL_TOKEN"),
    ] = None,
    names: Annotated[
        str, arg(metavar="A,B", help="host names of a proxy on this machine, besides localhost")
    ] = "",
    anyone: Annotated[
        bool, arg(help="accept requests from other machines without a token")
    ] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    upload_mb: Annotated[int, arg(help="maximum size of a request in MiB")] = 32,
    megapixels: Annotated[float, arg(help="maximum size of an image")] = 50,
    sound_seconds: Annotated[float, arg(help="maximum length of a recording")] = 120,
    concurrent: Annotated[
        int, arg(help="maximum number of running and waiting requests; more are rejected")
    ] = 128,
    seconds: Annotated[float, arg(help="maximum time of a request")] = 30,
    code: Code = NONE,
) -> None:
    """Serve a run over HTTP.

    /embed, /search, /records, /predict, /health, /metrics, and their documentation in /docs.
    """
    from amodal.serve import Limits
    from amodal.serve import serve as run_server
    from amodal.serve.server import read_token

    limits = Limits(
        upload=upload_mb * 2**20,
        pixels=int(megapixels * 1e6),
        sound=sound_seconds,
        concurrent=concurrent,
        seconds=seconds,
    )
    with code.supplied(run):
        run_server(
            run,
            token=read_token(token_file),
            anyone=anyone,
            limits=limits,
            host=host,
            port=port,
            index=index or None,
            device=device,
            names=listed(names) or (),
        )
