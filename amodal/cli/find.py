"""Verbs that search, and serve the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from amodal.cli.options import listed, numbers, pairs
from amodal.cli.shared import Data, Run, Where, show


def index(
    run: Run,
    data: Data,
    out: Annotated[Path | None, arg(help="the folder; RUN/index unless given")] = None,
    to: Annotated[
        str, arg(metavar="URL", help="instead of a folder: qdrant://HOST:6333/COLLECTION")
    ] = "",
    prune: Annotated[bool, arg(help="remove records that the data no longer has")] = False,
) -> None:
    """Embed records into an index to search in; those it holds already are skipped."""
    from amodal.errors import AmodalError
    from amodal.inference.embed import unreadable
    from amodal.modalities import name_of
    from amodal.model import load
    from amodal.progress import Bar
    from amodal.search.engine import rank_chunks
    from amodal.train import distributed

    if to and (out is not None or "://" not in to):
        raise AmodalError(
            f"--to {to}: it takes an address, such as qdrant://localhost:6333/photos, in place of --out DIR"
        )
    model = load(run)
    dataset = model.read(data)
    distributed.start()
    mine = sum(map(len, rank_chunks(len(dataset), concurrent=bool(to))))
    with Bar("index", mine, shown=distributed.rank() == 0) as bar:
        made = model.index(
            dataset, to or out, prune=prune, progress=lambda n: bar.step("records", by=n)
        )
    if made.bad:
        print(unreadable(made.bad))
    if made.stale and prune:
        print(f"{made.stale:,} records removed from the index that are no longer in the data")
    elif made.stale:
        print(
            f"{made.stale:,} records in the index are no longer in the data (--prune removes them)"
        )
    kinds = {name_of(m): field for field, m in model.fields.items()}
    asked = next(
        (f"--{kind} …" for kind in ("text", "image", "audio") if kind in kinds),
        f"--query {next(iter(model.fields))}=…",
    )
    asked += f" --index {to or out}" if to or out else ""
    if distributed.rank() == 0:
        far = " so far (other ranks may still be at work)" if distributed.world() > 1 else ""
        print(f"{len(made)} records in the index{far}. Next: amodal search {run} {asked}")


def search(
    run: Run,
    text: Annotated[str | None, arg(help="what to look for, in words")] = None,
    image: Annotated[Path | None, arg(help="a picture file to look for")] = None,
    audio: Annotated[Path | None, arg(help="a sound file to look for")] = None,
    query: Annotated[
        tuple[str, ...],
        arg(metavar="FIELD=VALUE", help="a value of any field; several together are one query"),
    ] = (),
    like: Annotated[
        tuple[str, ...], arg(metavar="KEY", help="records of the index that are parts of the query")
    ] = (),
    weight: Annotated[
        tuple[str, ...],
        arg(
            metavar="PART=NUMBER",
            help="of text, image, …, FIELD, or like:KEY; 1 unless given, below 0: unlike it",
        ),
    ] = (),
    k: Annotated[int, arg(help="how many records to return")] = 10,
    where: Where = (),
    fields: Annotated[
        str, arg(metavar="A,B", help="whose vectors to compare with; all unless given")
    ] = "",
    index: Annotated[
        str, arg(metavar="DIR|URL", help="RUN/index unless given, or qdrant://…")
    ] = "",
    generate: Annotated[
        bool, arg(help="without an index: the run (of grace) writes the names of records")
    ] = False,
    json: Annotated[bool, arg(help="print JSON")] = False,
    sheet: Annotated[
        Path | None, arg(metavar="FILE.png", help="draw the records found; needs --data")
    ] = None,
    data: Annotated[
        str | None, arg(metavar="DIR", help="where the records are, for --sheet")
    ] = None,
) -> None:
    """Search an index by text, picture, sound, or a mix of them."""
    from amodal.data.remote import learnt_from
    from amodal.errors import AmodalError
    from amodal.model import load
    from amodal.search import as_json, picture_sheet, table

    asked = {
        k: v for k, v in (("text", text), ("image", image), ("audio", audio)) if v is not None
    } | pairs(query)
    model = load(run)
    if generate:
        chosen = {"where": where, "fields": fields, "index": index, "like": like, "weight": weight}
        of_index = [f"--{n}" for n, v in chosen.items() if v]
        if of_index:
            raise AmodalError(
                f"{of_index[0]} is of an index, and --generate looks in none; leave one of them out"
            )
        hits = model.generate(k=k, **asked)
    else:
        mix = {"like": like, "weights": numbers(weight)}
        hits = model.search(
            k=k,
            index=index or None,
            where=pairs(where) or None,
            fields=listed(fields),
            **mix,
            **asked,
        )
    print(as_json(hits)) if json else show(table(hits))
    if sheet is not None:
        picture_sheet(hits, model.read(data or learnt_from(model.config)), sheet)
        print(f"wrote {sheet}")


def serve(
    run: Run,
    host: Annotated[
        str, arg(help="0.0.0.0 for requests from elsewhere, which then need a token")
    ] = "127.0.0.1",
    port: int = 8000,
    index: Annotated[
        str, arg(metavar="DIR|URL", help="RUN/index unless given, or qdrant://…")
    ] = "",
    token_file: Annotated[
        Path | None,
        arg(metavar="FILE", help="holds the token that requests must bring; or set AMODAL_TOKEN"),
    ] = None,
    names: Annotated[
        str, arg(metavar="A,B", help="by which a proxy on this machine calls it, besides localhost")
    ] = "",
    anyone: Annotated[bool, arg(help="take requests from elsewhere without a token")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    upload_mb: Annotated[int, arg(help="MiB of a request at most")] = 32,
    megapixels: Annotated[float, arg(help="of a picture at most")] = 50,
    sound_seconds: Annotated[float, arg(help="of a recording at most")] = 120,
    concurrent: Annotated[
        int, arg(help="requests at work or waiting; more are told to come back")
    ] = 128,
    seconds: Annotated[float, arg(help="that a request may take")] = 30,
) -> None:
    """Put a run behind an HTTP API.

    /embed, /search, /records, /predict, /health, /metrics, and /docs that explains them.
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
    where = {
        "host": host,
        "port": port,
        "index": index or None,
        "device": device,
        "names": listed(names) or (),
    }
    run_server(run, token=read_token(token_file), anyone=anyone, limits=limits, **where)
