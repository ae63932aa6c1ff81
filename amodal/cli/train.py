"""Verbs that train: pretrain, align, adapt, and what a run would take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from amodal.cli.options import listed, pairs
from amodal.cli.recipes import RecipeOptions, asked_of, with_file
from amodal.cli.shared import CURATE_OPTIONS, METHOD_OPTIONS, Data, Run, show
from amodal.errors import AmodalError

Recipes = Annotated[RecipeOptions, OmitArgPrefixes]
DEFAULT = RecipeOptions()


def pretrain(
    method: Annotated[
        Positional[str | None], arg(metavar="[METHOD]", help="see `amodal methods`")
    ] = None,
    data: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="a folder, a table file, an address (s3://…), or a set: globe, digits, or of `amodal data`",
        ),
    ] = None,
    out: Annotated[Path | None, arg(help="the run folder to write")] = None,
    config: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="a run's config.toml, or any TOML of these options; others that are given take precedence",
        ),
    ] = None,
    size: Annotated[
        str | None, arg(help="nano, tiny, small, base, large or huge; tiny unless given")
    ] = None,
    fields: Annotated[str, arg(metavar="A,B", help="fields to use; all unless given")] = "",
    seed: Annotated[int | None, arg(help="0 unless given")] = None,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    trunk: Annotated[
        str | None, arg(help="separate, shared or joint; by default what the method's paper uses")
    ] = None,
    positions: Annotated[str | None, arg(help="sincos, learned, rotary or none")] = None,
    pool: Annotated[str | None, arg(help="mean, cls or attention")] = None,
    backbone: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=SPEC", help="pretrained backbones: timm:NAME[@WEIGHTS], transformers:DIR"
        ),
    ] = (),
    train_backbones: Annotated[bool, arg(help="let pretrained backbones learn too")] = False,
    workers: Annotated[
        int | None, arg(help="processes that decode; 0: a thread beside the training")
    ] = None,
    device: Annotated[str | None, arg(help="auto, cpu, cuda, cuda:N")] = None,
    save_every: Annotated[
        int | None, arg(help="steps between checkpoints; 0: a fifth of the run")
    ] = None,
    matmul: Annotated[
        str, arg(help="library of float32 products on a CPU: auto (measured), torch or onednn")
    ] = "auto",
    curate: Annotated[
        str,
        arg(help="how to choose what is trained on, e.g. jest; its options: --curate.NAME VALUE"),
    ] = "",
    init_from: Annotated[
        Path | None, arg(metavar="RUN", help="begin with this run's weights, as far as they fit")
    ] = None,
    conflict: Annotated[
        bool, arg(help="log whether the terms of the loss pull the same way")
    ] = False,
    logger: Annotated[
        str, arg(metavar="A,B", help="tensorboard, wandb, mlflow, trackio; or none")
    ] = "",
    callback: Annotated[
        tuple[str, ...],
        arg(metavar="NAME", help="probe:LABEL, retrieval, or FILE.py:NAME, called with the data"),
    ] = (),
    recipe: Recipes = DEFAULT,
) -> None:
    """Pretrain an encoder without labels.

    Options of the method itself: --method.NAME VALUE (`amodal methods METHOD` lists them).
    """
    from amodal.train import distributed
    from amodal.train.pretrain import pretrain as run

    asked: dict[str, Any] = {
        "method": method,
        "data": data,
        "out": out,
        "size": size,
        "fields": listed(fields),
        "seed": seed,
        "resume": resume,
        "trunk": trunk,
        "positions": positions,
        "pool": pool,
        "backbones": pairs(backbone),
        "train_backbones": train_backbones,
        "workers": workers,
        "device": device,
        "save_every": save_every,
        "matmul": "" if matmul == "auto" else matmul,
        "curate": curate,
        "init_from": init_from,
        "conflict": conflict,
        "options": METHOD_OPTIONS,
        "curate_options": CURATE_OPTIONS,
        "logger": loggers(logger),
    }
    asked = {name: v for name, v in asked.items() if v not in (None, "", False, {})}
    asked |= asked_of(recipe)
    asked = with_file(str(config), asked) if config is not None else asked
    for name, words in (("method", "METHOD"), ("data", "--data DIR"), ("out", "--out DIR")):
        if not asked.get(name):
            raise AmodalError(
                f"amodal pretrain needs {words}; give it, or --config FILE that has it"
            )
    method, data, out = (asked.pop(name) for name in ("method", "data", "out"))
    records: Any = data
    if callback:
        from amodal import data as opening
        from amodal.train.callbacks import named

        records = opening.open(data)
        asked["callbacks"] = [named(spec, records) for spec in callback]
    run(str(method), records, Path(str(out)), **asked)
    if distributed.rank() == 0:
        print(f"wrote {out}. Next: amodal evaluate {out} --data {data}")


def loggers(text: str) -> list[str] | None:
    """The loggers that a command line names: [] for `none`, None where it names none."""
    return [] if text == "none" else listed(text)


def plan(
    method: Annotated[
        Positional[str], arg(metavar="[METHOD]", help="see `amodal methods`")
    ] = "clip",
    size: Annotated[str, arg(help="nano, tiny, small, base, large or huge")] = "huge",
    samples: Annotated[float, arg(help="records to be shown, over all epochs")] = 1e9,
    gpus: Annotated[int, arg(help="how many, one process each")] = 64,
    gpu: Annotated[
        str,
        arg(
            help="l4, l40s, a100, h100, h200, b200 or mi300x; their numbers: amodal/plan/hardware.py"
        ),
    ] = "h100",
    data: Annotated[
        str | None,
        arg(metavar="DIR", help="whose records to count with; made-up ones unless given"),
    ] = None,
    tokens: Annotated[
        tuple[str, ...],
        arg(
            metavar="KIND=N",
            help="made-up records, of image, text, audio, series; image=196 text=64",
        ),
    ] = (),
    batch_size: Annotated[int | None, arg(help="rows in one update, over all GPUs")] = None,
    micro_batch_size: Annotated[
        int | None, arg(help="rows computed at once; the most that fit unless given")
    ] = None,
    ema: Annotated[bool, arg(help="keep a moving average of the weights too")] = False,
    precision: Annotated[str, arg(help="bf16 or float32")] = "bf16",
    trunk: Annotated[
        str | None, arg(help="separate, shared or joint; by default what the method's paper uses")
    ] = None,
    mfu: Annotated[
        float | None,
        arg(help="share of the peak FLOP/s that a step reaches, where you have measured it"),
    ] = None,
    efficiency: Annotated[
        float, arg(help="share of published FLOP/s and bandwidth that an operation reaches")
    ] = 0.6,
    price: Annotated[float | None, arg(help="dollars for an hour of one GPU")] = None,
    per_machine: Annotated[int, arg(help="GPUs in a machine")] = 8,
    network: Annotated[
        float | None, arg(help="GB/s from a GPU's machine to others, for each of its GPUs")
    ] = None,
) -> None:
    """Say what a run would take on GPUs that are not here.

    Memory, time, money, and how to split it.
    """
    from amodal.errors import AmodalError
    from amodal.plan import plan as run

    wanted = pairs(tokens)
    for kind, number in wanted.items():
        if not number.isdecimal():
            raise AmodalError(
                f"--tokens {kind}={number}: it takes a whole number of tokens, such as {kind}=64"
            )
    asked = {
        "batch": batch_size,
        "micro": micro_batch_size,
        "average": ema,
        "precision": precision,
        "trunk": trunk,
        "options": METHOD_OPTIONS,
    }
    machine = {"mfu": mfu, "efficiency": efficiency, "price": price, "per_machine": per_machine}
    machine["network"] = network * 1e9 if network else None
    kinds = {kind: int(number) for kind, number in wanted.items()}
    show(
        run(
            method,
            size=size,
            samples=samples,
            gpus=gpus,
            gpu=gpu,
            data=data,
            tokens=kinds,
            **asked,
            **machine,
        ).table()
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
        bool,
        arg(help="cache every token of a value, for methods that read parts; 16 times the disk"),
    ] = False,
    size: Annotated[
        str, arg(help="of what learns: nano, tiny, small, base, large or huge")
    ] = "tiny",
    fields: Annotated[str, arg(metavar="A,B", help="fields to use; all unless given")] = "",
    seed: int = 0,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    recipe: Recipes = DEFAULT,
) -> None:
    """Bring frozen encoders into one space.

    Their features are computed once and cached, then a head learns in minutes.

    Options of the method: --method.NAME VALUE."""
    from amodal.train.pretrain import pretrain as run

    frozen = {"backbones": pairs(backbone), "cache_features": "tokens" if tokens else "mean"}
    common = {
        "size": size,
        "fields": listed(fields),
        "seed": seed,
        "resume": resume,
        "device": device,
    }
    run(method, data, out, options=METHOD_OPTIONS, **common, **frozen, **asked_of(recipe))
    print(f"wrote {out}. Next: amodal evaluate {out} --data {data}")


def adapt(
    run: Run,
    data: Data,
    label: Annotated[
        str, arg(metavar="A,B", help="what it is to predict; of a survival time TIME,EVENT")
    ],
    out: Annotated[Path, arg(help="the run folder to write")],
    how: Annotated[
        str,
        arg(
            help="full, head, bias, lora, adapters, prompts, or a method that learns from a label, such as mmrl"
        ),
    ] = "lora",
    task: Annotated[
        str, arg(help="auto, by the kind of each label, or survival; else what the way takes")
    ] = "",
    shots: Annotated[int | None, arg(help="learn from so many records of each class only")] = None,
    base_to_new: Annotated[
        bool, arg(help="learn from half of the classes; evaluate --protocols base_to_new")
    ] = False,
    seed: int = 0,
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False,
    workers: Annotated[int, arg(help="processes that decode; 0: a thread beside the training")] = 0,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    recipe: Recipes = DEFAULT,
) -> None:
    """Go on with a run until it predicts labels, for 30 epochs by default.

    Options of the way itself: --method.NAME VALUE.
    """
    from amodal.adapt import adapt as work

    common = {
        "seed": seed,
        "resume": resume,
        "workers": workers,
        "device": device,
        "options": METHOD_OPTIONS,
    }
    work(
        run,
        data,
        out,
        label=label,
        how=how,
        task=task,
        shots=shots,
        base_to_new=base_to_new,
        **common,
        **asked_of(recipe),
    )
    print(
        f"wrote {out}. Next: amodal evaluate {out} --data {data}, "
        f"or amodal predict {out} --data {data} --out predicted.csv"
    )
