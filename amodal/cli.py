"""The command line: verbs only. What a verb does lives elsewhere; options of a method come from its page (`--method.NAME VALUE`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from amodal.cli_options import listed, numbers, pairs, take_method_options

Run = Annotated[Positional[Path], arg(metavar="RUN", help="the folder that `amodal pretrain --out` made")]
Data = Annotated[
    str,
    arg(
        metavar="DIR", help="a folder, a table file, an address (s3://…), or a set: globe, digits, or of `amodal data`"
    ),
]
Where = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE", help="only records whose label has this value")]


def demo(
    out: Annotated[Path, arg(help="where the run and its pictures go")] = Path("runs/demo"),
    minutes: Annotated[float, arg(help="about how long to train")] = 3.0,
    seed: int = 0,
) -> None:
    """Pretrain on the bundled Earth, compare with chance and with an untrained encoder, draw what was learnt."""
    from amodal.demo import demo as run

    run(out, minutes=minutes, seed=seed)


def init(
    directory: Annotated[
        Positional[str],
        arg(metavar="DIR", help="a folder of files, a CSV, JSONL or Parquet file, or an address (s3://…)"),
    ],
    force: Annotated[bool, arg(help="overwrite a dataset.toml that is there")] = False,
) -> None:
    """Look at data, say what is in it, and write dataset.toml, which you can edit."""
    from amodal.data import init as run

    show(run(directory, force=force))


def data(
    name: Annotated[
        Positional[str | None], arg(metavar="[NAME]", help="a public set; all are listed unless given")
    ] = None,
    out: Annotated[Path | None, arg(metavar="DIR", help="the folder to build; a cache unless given")] = None,
    any_version: Annotated[bool, arg(help="take packages of another version, or with another checksum")] = False,
) -> None:
    """List public sets, or fetch the packages that hold one and make it a folder of records."""
    from amodal.data import sets

    if name is None:
        show(sets.listing())
        return
    folder = sets.fetch(name, out=out, any_version=any_version)
    print(f"Next: amodal pretrain clip --data {name if out is None else folder} --out RUN")


def pretrain(
    method: Annotated[Positional[str], arg(metavar="METHOD", help="see `amodal methods`")],
    data: Data,
    out: Annotated[Path, arg(help="the run folder to write")],
    size: Annotated[str, arg(help="nano, tiny, small, base, large or huge")] = "tiny",
    epochs: Annotated[int | None, arg(help="passes over the training records (50 unless steps are given)")] = None,
    steps: Annotated[int | None, arg(help="optimizer steps, instead of epochs")] = None,
    sources: Annotated[str, arg(metavar="A,B", help="fields to use; all unless given")] = "",
    seed: int = 0,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    batch: Annotated[int | None, arg(help="rows in one update, over all processes")] = None,
    micro: Annotated[int | None, arg(help="rows computed at once; saves memory, changes nothing else")] = None,
    lr: Annotated[float | None, arg(help="peak learning rate")] = None,
    trunk: Annotated[str | None, arg(help="separate, shared or joint; by default what the method's paper uses")] = None,
    positions: Annotated[str | None, arg(help="sincos, learned, rotary or none")] = None,
    pool: Annotated[str | None, arg(help="mean, cls or attention")] = None,
    backbone: Annotated[
        tuple[str, ...], arg(metavar="FIELD=SPEC", help="pretrained backbones: timm:NAME[@WEIGHTS], transformers:DIR")
    ] = (),
    train_backbones: Annotated[bool, arg(help="let pretrained backbones learn too")] = False,
    precision: Annotated[str, arg(help="auto, float32 or bf16")] = "auto",
    matmul: Annotated[str, arg(help="library of float32 products on a CPU: auto (measured), torch or onednn")] = "auto",
    average: Annotated[float, arg(help="momentum of a moving average of the weights to keep; 0: keep the last")] = 0.0,
    shard: Annotated[bool, arg(help="shard the blocks over processes (FSDP2), under torchrun")] = False,
    recompute: Annotated[
        bool,
        arg(help="activation checkpointing: compute blocks again for gradients; saves memory, changes nothing else"),
    ] = False,
    workers: Annotated[int, arg(help="processes that decode; 0: a thread beside the training")] = 0,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    checkpoint_every: Annotated[int, arg(help="steps between checkpoints; 0: a fifth of the run")] = 0,
    curate: Annotated[
        str, arg(help="how to choose what is trained on, e.g. jest; its options: --curate.NAME VALUE")
    ] = "",
    init_from: Annotated[
        Path | None, arg(metavar="RUN", help="begin with this run's weights, as far as they fit")
    ] = None,
    conflict: Annotated[bool, arg(help="log whether the terms of the loss pull the same way")] = False,
) -> None:
    """Pretrain an encoder without labels. Options of the method itself: --method.NAME VALUE (`amodal methods METHOD` lists them)."""
    from amodal.train import distributed
    from amodal.train.pretrain import pretrain as run

    run(
        method,
        data,
        out,
        size=size,
        epochs=epochs,
        steps=steps,
        sources=listed(sources),
        seed=seed,
        resume=resume,
        batch=batch,
        micro=micro,
        lr=lr,
        trunk=trunk,
        positions=positions,
        pool=pool,
        backbones=pairs(backbone),
        train_backbones=train_backbones,
        precision=precision,
        matmul=matmul,
        average=average,
        shard=shard,
        recompute=recompute,
        workers=workers,
        device=device,
        checkpoint_every=checkpoint_every,
        options=METHOD_OPTIONS,
        curate=curate,
        curate_options=CURATE_OPTIONS,
        init_from=init_from or "",
        conflict=conflict,
    )
    if distributed.rank() == 0:
        print(f"wrote {out}. Next: amodal evaluate {out} --data {data}")


def plan(
    method: Annotated[Positional[str], arg(metavar="[METHOD]", help="see `amodal methods`")] = "clip",
    size: Annotated[str, arg(help="nano, tiny, small, base, large or huge")] = "huge",
    samples: Annotated[float, arg(help="records to be shown, over all epochs")] = 1e9,
    gpus: Annotated[int, arg(help="how many, one process each")] = 64,
    gpu: Annotated[
        str, arg(help="l4, l40s, a100, h100, h200, b200 or mi300x; their numbers: amodal/plan/hardware.py")
    ] = "h100",
    data: Annotated[
        str | None, arg(metavar="DIR", help="whose records to count with; made-up ones unless given")
    ] = None,
    tokens: Annotated[
        tuple[str, ...], arg(metavar="KIND=N", help="made-up records, of image, text, audio, series; image=196 text=64")
    ] = (),
    batch: Annotated[int | None, arg(help="rows in one update, over all GPUs")] = None,
    micro: Annotated[int | None, arg(help="rows computed at once; the most that fit unless given")] = None,
    average: Annotated[bool, arg(help="keep a moving average of the weights too")] = False,
    precision: Annotated[str, arg(help="bf16 or float32")] = "bf16",
    trunk: Annotated[str | None, arg(help="separate, shared or joint; by default what the method's paper uses")] = None,
    mfu: Annotated[
        float | None, arg(help="share of the peak FLOP/s that a step reaches, where you have measured it")
    ] = None,
    efficiency: Annotated[float, arg(help="share of published FLOP/s and bandwidth that an operation reaches")] = 0.6,
    price: Annotated[float | None, arg(help="dollars for an hour of one GPU")] = None,
    per_machine: Annotated[int, arg(help="GPUs in a machine")] = 8,
    network: Annotated[float | None, arg(help="GB/s from a GPU's machine to others, for each of its GPUs")] = None,
) -> None:
    """Say what a run would take on GPUs that are not here: memory, time, money, and how to split it."""
    from amodal.errors import AmodalError
    from amodal.plan import plan as run

    wanted = pairs(tokens)
    for kind, number in wanted.items():
        if not number.isdecimal():
            raise AmodalError(f"--tokens {kind}={number}: it takes a whole number of tokens, such as {kind}=64")
    asked = {
        "batch": batch,
        "micro": micro,
        "average": average,
        "precision": precision,
        "trunk": trunk,
        "options": METHOD_OPTIONS,
    }
    machine = {"mfu": mfu, "efficiency": efficiency, "price": price, "per_machine": per_machine}
    machine["network"] = network * 1e9 if network else None
    kinds = {kind: int(number) for kind, number in wanted.items()}
    show(
        run(method, size=size, samples=samples, gpus=gpus, gpu=gpu, data=data, tokens=kinds, **asked, **machine).table()
    )


def align(
    data: Data,
    out: Annotated[Path, arg(help="the run folder to write")],
    backbone: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=SPEC",
            help="package:minilm, package:efficientnet_lite0, timm:NAME[@WEIGHTS], transformers:DIR",
        ),
    ],
    method: Annotated[str, arg(help="the objective: ape, clip, siglip, lit, gram, …")] = "ape",
    tokens: Annotated[
        bool, arg(help="keep every token of a value, for methods that read parts; 16 times the disk")
    ] = False,
    size: Annotated[str, arg(help="of what learns: nano, tiny, small, base, large or huge")] = "tiny",
    epochs: Annotated[int | None, arg(help="passes over the training records (50 unless steps are given)")] = None,
    steps: Annotated[int | None, arg(help="optimizer steps, instead of epochs")] = None,
    sources: Annotated[str, arg(metavar="A,B", help="fields to use; all unless given")] = "",
    seed: int = 0,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    batch: Annotated[int | None, arg(help="rows in one update")] = None,
    lr: Annotated[float | None, arg(help="peak learning rate")] = None,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
) -> None:
    """Bring frozen encoders into one space: their features are computed once and kept, then a head learns in minutes.

    Options of the method: --method.NAME VALUE."""
    from amodal.train.pretrain import pretrain as run

    spent = {"epochs": epochs, "steps": steps, "batch": batch, "lr": lr, "seed": seed, "resume": resume}
    frozen = {"backbones": pairs(backbone), "remember": "tokens" if tokens else "mean"}
    run(method, data, out, size=size, sources=listed(sources), device=device, options=METHOD_OPTIONS, **spent, **frozen)
    print(f"wrote {out}. Next: amodal evaluate {out} --data {data}")


def adapt(
    run: Run,
    data: Data,
    label: Annotated[str, arg(metavar="A,B", help="what it is to tell; of a survival time TIME,EVENT")],
    out: Annotated[Path, arg(help="the run folder to write")],
    how: Annotated[
        str, arg(help="full, head, bias, lora, adapters, prompts, or a method that learns from a label, such as mmrl")
    ] = "lora",
    task: Annotated[str, arg(help="auto, by the kind of each label, or survival; else what the way takes")] = "",
    shots: Annotated[int | None, arg(help="learn from so many records of each class only")] = None,
    base_to_new: Annotated[bool, arg(help="learn from half of the classes; evaluate --protocols base_to_new")] = False,
    epochs: Annotated[int | None, arg(help="passes over these records (30 unless steps are given)")] = None,
    steps: Annotated[int | None, arg(help="optimizer steps, instead of epochs")] = None,
    seed: int = 0,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    batch: Annotated[int | None, arg(help="rows in one update")] = None,
    lr: Annotated[float | None, arg(help="peak learning rate")] = None,
    workers: Annotated[int, arg(help="processes that decode; 0: a thread beside the training")] = 0,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
) -> None:
    """Go on with a run until it tells labels. Options of the way itself: --method.NAME VALUE."""
    from amodal.adapt import adapt as work

    spent = {"epochs": epochs, "steps": steps, "batch": batch, "lr": lr, "seed": seed, "resume": resume}
    more = {"workers": workers, "device": device, "options": METHOD_OPTIONS}
    work(run, data, out, label=label, how=how, task=task, shots=shots, base_to_new=base_to_new, **spent, **more)
    told = (
        f", or amodal predict {out} --data {data} --out told.csv"
        if any((out / f"{part}.safetensors").exists() for part in ("head", "method"))
        else ""
    )
    print(f"wrote {out}. Next: amodal evaluate {out} --data {data}{told}")


def predict(
    run: Run,
    data: Data,
    out: Annotated[Path, arg(metavar="FILE", help="a .csv or .parquet file: key, and what each label is told to be")],
    part: Annotated[str | None, arg(help="train, valid or test; all records unless given")] = None,
) -> None:
    """Tell the labels of records, by a run that `amodal adapt` made."""
    from amodal.adapt import write_predictions
    from amodal.model import load

    print(f"wrote what is told of {write_predictions(load(run), data, out, part=part)} records to {out}")


def evaluate(
    run: Run,
    data: Data,
    label: Annotated[
        str | None, arg(metavar="FIELD", help="the label that knn, linear, … predict; of a survival time TIME,EVENT")
    ] = None,
    protocols: Annotated[
        str,
        arg(
            metavar="A,B",
            help="knn, linear, retrieval, …, file.py:NAME or package.module:NAME; all that apply unless named, but for "
            "missing_modality_robustness, modality_subsets, prompts, base_to_new, small_objects",
        ),
    ] = "",
    json: Annotated[Path | None, arg(help="write spec and results to this file; figures go beside it")] = None,
    few: Annotated[int | None, arg(help="use only so many labels of each class, in several draws")] = None,
    untrained: Annotated[bool, arg(help="measure the untrained encoder beside it")] = True,
) -> None:
    """Measure how good a run is on records it was not trained on."""
    from amodal.model import load

    options = {} if few is None else {"few": few}
    report = load(run).evaluate(data, label=label, protocols=listed(protocols), untrained=untrained, **options)
    show(report.table())
    if json is not None:
        report.save(json)
        print(f"wrote {json}")


def embed(
    run: Run,
    data: Data,
    out: Annotated[
        Path, arg(metavar="FILE.parquet", help="columns: key, source, vector; goes on where it was interrupted")
    ],
) -> None:
    """Embed every record into a Parquet file; under torchrun by all ranks."""
    from amodal.export.vectors import write_vectors
    from amodal.model import load
    from amodal.train import distributed

    count = write_vectors(load(run), data, out)
    if distributed.rank() == 0:
        print(f"wrote {count} vectors to {out}")


def index(
    run: Run,
    data: Data,
    out: Annotated[Path | None, arg(help="the folder; RUN/index unless given")] = None,
    to: Annotated[str, arg(metavar="URL", help="instead of a folder: qdrant://HOST:6333/COLLECTION")] = "",
    prune: Annotated[bool, arg(help="remove records that the data no longer has")] = False,
) -> None:
    """Embed records into an index to search in; those it holds already are skipped."""
    from amodal.errors import AmodalError
    from amodal.inference.embed import unreadable
    from amodal.modalities import name_of
    from amodal.model import load
    from amodal.progress import Bar
    from amodal.search.engine import shares
    from amodal.train import distributed

    if to and (out is not None or "://" not in to):
        raise AmodalError(
            f"--to {to}: it takes an address, such as qdrant://localhost:6333/photos, in place of --out DIR"
        )
    model = load(run)
    dataset = model.read(data)
    distributed.start()
    mine = sum(map(len, shares(len(dataset), many=bool(to))))
    with Bar("index", mine, shown=distributed.rank() == 0) as bar:
        made = model.index(dataset, to or out, prune=prune, progress=lambda n: bar.step("records", by=n))
    if made.bad:
        print(unreadable(made.bad))
    if made.gone and prune:
        print(f"{made.gone:,} records removed from the index that are no longer in the data")
    elif made.gone:
        print(f"{made.gone:,} records in the index are no longer in the data (--prune removes them)")
    kinds = {name_of(m): field for field, m in model.fields.items()}
    asked = next(
        (f"--{kind} …" for kind in ("text", "image", "audio") if kind in kinds), f"--query {next(iter(model.fields))}=…"
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
        tuple[str, ...], arg(metavar="FIELD=VALUE", help="a value of any field; several together are one query")
    ] = (),
    like: Annotated[tuple[str, ...], arg(metavar="KEY", help="records of the index that are parts of the query")] = (),
    weight: Annotated[
        tuple[str, ...],
        arg(metavar="PART=NUMBER", help="of text, image, …, FIELD, or like:KEY; 1 unless given, below 0: unlike it"),
    ] = (),
    k: Annotated[int, arg(help="how many records to return")] = 10,
    where: Where = (),
    senses: Annotated[str, arg(metavar="A,B", help="whose vectors to compare with; all unless given")] = "",
    index: Annotated[str, arg(metavar="DIR|URL", help="RUN/index unless given, or qdrant://…")] = "",
    generate: Annotated[bool, arg(help="without an index: the run (of grace) writes the names of records")] = False,
    json: Annotated[bool, arg(help="print JSON")] = False,
    sheet: Annotated[Path | None, arg(metavar="FILE.png", help="draw the records found; needs --data")] = None,
    data: Annotated[str | None, arg(metavar="DIR", help="where the records are, for --sheet")] = None,
) -> None:
    """Search an index by text, picture, sound, or a mix of them."""
    from amodal.data.remote import learnt_from
    from amodal.errors import AmodalError
    from amodal.model import load
    from amodal.search import as_json, picture_sheet, table

    asked = {k: v for k, v in (("text", text), ("image", image), ("audio", audio)) if v is not None} | pairs(query)
    model = load(run)
    if generate:
        chosen = {"where": where, "senses": senses, "index": index, "like": like, "weight": weight}
        of_index = [f"--{n}" for n, v in chosen.items() if v]
        if of_index:
            raise AmodalError(f"{of_index[0]} is of an index, and --generate looks in none; leave one of them out")
        hits = model.generate(k=k, **asked)
    else:
        mix = {"like": like, "weights": numbers(weight)}
        hits = model.search(k=k, index=index or None, where=pairs(where) or None, senses=listed(senses), **mix, **asked)
    print(as_json(hits)) if json else show(table(hits))
    if sheet is not None:
        picture_sheet(hits, model.read(data or learnt_from(model.config)), sheet)
        print(f"wrote {sheet}")


def serve(
    run: Run,
    host: Annotated[str, arg(help="0.0.0.0 for requests from elsewhere, which then need a token")] = "127.0.0.1",
    port: int = 8000,
    index: Annotated[str, arg(metavar="DIR|URL", help="RUN/index unless given, or qdrant://…")] = "",
    token_file: Annotated[
        Path | None, arg(metavar="FILE", help="holds the token that requests must bring; or set AMODAL_TOKEN")
    ] = None,
    names: Annotated[str, arg(metavar="A,B", help="by which a proxy on this machine calls it, besides localhost")] = "",
    anyone: Annotated[bool, arg(help="take requests from elsewhere without a token")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    upload_mb: Annotated[int, arg(help="MiB of a request at most")] = 32,
    megapixels: Annotated[float, arg(help="of a picture at most")] = 50,
    sound_seconds: Annotated[float, arg(help="of a recording at most")] = 120,
    concurrent: Annotated[int, arg(help="requests at work or waiting; more are told to come back")] = 128,
    seconds: Annotated[float, arg(help="that a request may take")] = 30,
) -> None:
    """Put a run behind an HTTP API: /embed, /search, /records, /predict, /health, /metrics, and /docs that explains them."""
    from amodal.serve import Limits
    from amodal.serve import serve as run_server
    from amodal.serve.server import token_of

    limits = Limits(
        upload=upload_mb * 2**20,
        pixels=int(megapixels * 1e6),
        sound=sound_seconds,
        concurrent=concurrent,
        seconds=seconds,
    )
    where = {"host": host, "port": port, "index": index or None, "device": device, "names": listed(names) or ()}
    run_server(run, token=token_of(token_file), anyone=anyone, limits=limits, **where)


def view(
    run: Run,
    data: Annotated[
        str | None, arg(metavar="DIR", help="the records to show; what the run learnt from, unless given")
    ] = None,
    port: int = 8001,
    browse: Annotated[bool, arg(help="open the browser")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
) -> None:
    """Look at a run in the browser: a map of the records, search, how it trained, odd records, what each sense is worth."""
    from amodal.serve.view import view as run_page

    run_page(run, data=data, port=port, browse=browse, device=device)


def export(
    run: Run,
    to: Annotated[
        Literal["safetensors", "huggingface", "onnx"],
        arg(help="safetensors: a folder amodal.load reads; huggingface: the same for the Hub; onnx: one graph a sense"),
    ],
    out: Annotated[Path | None, arg(help="RUN/export unless given")] = None,
) -> None:
    """Write the encoder for use elsewhere."""
    from amodal.export import export as write
    from amodal.model import load

    for path in write(load(run), to, out or run / "export"):
        print(f"wrote {path}")


def methods(
    key: Annotated[Positional[str | None], arg(metavar="[KEY]", help="one method or row of the catalogue")] = None,
    source: Annotated[bool, arg(help="print the page itself")] = False,
) -> None:
    """List the methods, or show one: its paper, options with defaults, claim and verdict."""
    from amodal.catalog import listing, shown

    show(listing() if key is None else shown(key, source=source))


def claim(
    key: Annotated[Positional[str], arg(metavar="KEY", help="a claim; `amodal methods` says which there are")],
    seeds: Annotated[int | None, arg(help="paired seeds; what the claim fixed unless given")] = None,
    data: Annotated[str | None, arg(metavar="DIR", help="other data than the claim's own")] = None,
) -> None:
    """Re-test what a paper is known for, at small scale, against its baseline."""
    from amodal.claims import claim as run

    show(run(key, seeds=seeds, data=data).table())


def doctor() -> None:
    """Say what this machine and environment can do."""
    from amodal.doctor import report

    show(report())


VERBS = {
    f.__name__: f
    for f in (
        demo,
        init,
        data,
        pretrain,
        plan,
        align,
        adapt,
        predict,
        evaluate,
        embed,
        index,
        search,
        serve,
        view,
        export,
        methods,
        claim,
        doctor,
    )
}
METHOD_OPTIONS: dict[str, object] = {}
CURATE_OPTIONS: dict[str, object] = {}


def show(thing) -> None:
    from amodal.console import stdout

    stdout().print(thing)


def main(argv: list[str] | None = None) -> None:
    rest, options = take_method_options(sys.argv[1:] if argv is None else argv)
    rest, chosen = take_method_options(rest, "--curate.")
    for known, now in ((METHOD_OPTIONS, options), (CURATE_OPTIONS, chosen)):
        known.clear()
        known.update(now)
    try:
        if rest and not rest[0].startswith("-") and rest[0] not in VERBS:
            from amodal.errors import unknown

            raise unknown("verb of amodal", rest[0], VERBS)
        if options and rest[:1] not in (["pretrain"], ["align"], ["adapt"], ["plan"]):
            from amodal.errors import AmodalError

            raise AmodalError(f"--method.{next(iter(options))} is an option of `amodal pretrain METHOD`")
        if chosen and not any(word == "--curate" or word.startswith("--curate=") for word in rest):
            from amodal.errors import AmodalError

            raise AmodalError(f"--curate.{next(iter(chosen))} is an option of `amodal pretrain … --curate NAME`")
        tyro.extras.subcommand_cli_from_dict(VERBS, args=rest, prog="amodal", description=__doc__.split(".")[0] + ".")
    except KeyboardInterrupt as e:
        resumes = rest[:1] == ["pretrain"]
        print(f"\n{str(e) or 'interrupted'}{'; add --resume to go on' if resumes else ''}", file=sys.stderr)
        raise SystemExit(130) from None
    except ValueError as e:
        from amodal.errors import AmodalError

        if not isinstance(e, AmodalError):
            raise
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as e:  # a file or folder that is not there, not ours, or on a full disk
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
