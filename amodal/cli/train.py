"""Verbs that train: pretrain, align and adapt; and plan, which estimates the cost of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from amodal.cli.options import listed, pairs
from amodal.cli.own_code import NONE, Code
from amodal.cli.recipes import RecipeOptions, RunSettings, chosen, recipe_fields, with_file
from amodal.cli.shared import (
    CURATE_OPTIONS,
    DATA_HELP,
    METHOD_OPTIONS,
    Data,
    Run,
    command,
    command_after_training,
    show,
)
from amodal.errors import AmodalError

Recipes = Annotated[RecipeOptions, OmitArgPrefixes, arg(name="")]  # headings without a prefix
DEFAULT = RecipeOptions()
Settings = Annotated[RunSettings, OmitArgPrefixes, arg(name="")]
UNSET = RunSettings()

Fields = Annotated[
    str,
    arg(metavar="A,B", help="fields to use; by default all; a name with a comma in double quotes"),
]
Out = Annotated[Path, arg(help="the run folder to write")]
Resume = Annotated[bool, arg(help="continue the run in --out")]
Accept = Annotated[
    bool, arg(help="resume although code of your own is not what the run was started with")
]
Device = Annotated[str, arg(help="auto, cpu, cuda, cuda:N")]
Trunk = Annotated[
    str | None, arg(help="separate, shared or joint; by default as in the method's paper")
]
Workers = Annotated[
    int, arg(help="processes that decode records; 0: a thread of the training process")
]
SIZES = "nano, tiny, small, base, large or huge"


def pretrain(
    method: Annotated[
        Positional[str | None], arg(metavar="[METHOD]", help="see `amodal methods`")
    ] = None,
    data: Annotated[str | None, arg(metavar="DIR", help=DATA_HELP)] = None,
    out: Annotated[Path | None, arg(help="the run folder to write")] = None,
    config: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="a run's config.toml, or any TOML of these options; "
            "options of the command line override it",
        ),
    ] = None,
    settings: Settings = UNSET,
    callback: Annotated[
        tuple[str, ...],
        arg(metavar="NAME", help="probe:LABEL, retrieval, or FILE.py:NAME, called with the data"),
    ] = (),
    init_method: Annotated[
        str,
        arg(
            metavar="FILE.py:NAME",
            help="the method of the run of --init-from, if it is of your own",
        ),
    ] = "",
    init_backbone: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=FILE.py:NAME",
            help="the backbones of the run of --init-from, if they are of your own",
        ),
    ] = (),
    recipe: Recipes = DEFAULT,
) -> None:
    """Pretrain an encoder without labels.

    Options of the method itself: --method.NAME VALUE (`amodal methods METHOD` lists them).
    """
    from amodal.train import distributed
    from amodal.train.pretrain import pretrain as run

    asked: dict[str, Any] = {"method": method, "data": data, "out": out}
    asked |= {"options": METHOD_OPTIONS, "curate_options": CURATE_OPTIONS}
    # unset options are left to the file, and to the defaults
    asked = {name: value for name, value in asked.items() if value not in (None, {})}
    asked |= chosen(settings) | recipe_fields(recipe)
    asked = with_file(str(config), asked) if config is not None else asked
    for name, usage in (("method", "METHOD"), ("data", "--data DIR"), ("out", "--out DIR")):
        if not asked.get(name):
            raise AmodalError(
                f"amodal pretrain needs {usage}; give it, or --config FILE that has it"
            )
    code = {"init_method": init_method, "init_backbones": pairs(init_backbone)}
    asked |= {name: value for name, value in code.items() if value}
    if any(code.values()) and not asked.get("init_from"):
        raise AmodalError(
            "--init-method and --init-backbone say where the code of the run of --init-from is, "
            "and --init-from is not set; what is to be trained stands as "
            "`amodal pretrain METHOD --backbone FIELD=SPEC`"
        )
    method, data, out = (asked.pop(name) for name in ("method", "data", "out"))
    records: Any = data
    if callback:
        from amodal.data import open as open_data
        from amodal.train.callbacks import from_spec

        records = open_data(data)
        asked["callbacks"] = [from_spec(spec, records) for spec in callback]
    run(str(method), records, Path(str(out)), **asked)
    if distributed.rank() == 0:
        from amodal import methods
        from amodal.nn.backbones.pretrained import is_own_code

        own = f" --method {method}" if methods.is_user_code(str(method)) else ""
        specs = asked.get("backbones") or {}
        own += "".join(f" --backbone {f}={s}" for f, s in specs.items() if is_own_code(s))
        print(f"wrote {out}. Next: {command_after_training(out, data)}{own}")


def plan(
    method: Annotated[
        Positional[str], arg(metavar="[METHOD]", help="see `amodal methods`")
    ] = "clip",
    size: Annotated[
        str, arg(help=f"of the encoder: {SIZES}; by default huge, with --data tiny")
    ] = "",
    samples: Annotated[
        float | None,
        arg(help="records to train on, over all epochs; by default 1e9, with --data its run's"),
    ] = None,
    gpus: Annotated[
        int | None,
        arg(help="number of GPUs, with one process each; by default 64, with --data 1"),
    ] = None,
    gpu: Annotated[
        str,
        arg(
            help="l4, l40s, a100, h100, h200, b200 or mi300x; "
            "their figures: amodal/plan/hardware.py"
        ),
    ] = "h100",
    data: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="records to count with, and to time `pretrain` on this machine; by default "
            "synthetic ones",
        ),
    ] = None,
    fields: Fields = "",
    tokens: Annotated[
        tuple[str, ...],
        arg(
            metavar="MODALITY=N",
            help="tokens of synthetic records, of image, text, audio, series; image=196 text=64",
        ),
    ] = (),
    batch_size: Annotated[int | None, arg(help="rows of an optimizer step, over all GPUs")] = None,
    micro_batch_size: Annotated[
        int | None, arg(help="rows of a forward pass; by default the most that fit")
    ] = None,
    ema: Annotated[bool, arg(help="keep a moving average of the weights")] = False,
    precision: Annotated[str, arg(help="bf16 or float32")] = "bf16",
    trunk: Trunk = None,
    backbone: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=SPEC",
            help="as in pretrain; fields of synthetic records are called image, text, …",
        ),
    ] = (),
    mfu: Annotated[
        float | None,
        arg(help="share of the peak FLOP/s that a step reaches, if you have measured it"),
    ] = None,
    efficiency: Annotated[
        float, arg(help="share of published FLOP/s and bandwidth that an operation reaches")
    ] = 0.6,
    price: Annotated[float | None, arg(help="US dollars per hour of one GPU")] = None,
    per_machine: Annotated[int, arg(help="GPUs of a machine")] = 8,
    network: Annotated[
        float | None, arg(help="GB/s that a machine sends to others, per GPU")
    ] = None,
) -> None:
    """Estimate memory, time and cost of a run on GPUs, and how to split it; with --data first what
    `pretrain` would take here, from some timed steps."""
    from amodal.plan import check_records
    from amodal.plan import plan as run

    counts = pairs(tokens)
    for modality, number in counts.items():
        if not number.isdecimal():
            raise AmodalError(
                f"--tokens {modality}={number}: it takes a whole number of tokens, "
                f"such as {modality}=64"
            )
    check_records(data, counts, listed(fields))
    if data is not None:
        from amodal.plan.here import time_steps

        timing = time_steps(
            method,
            data,
            fields=listed(fields),
            size=size or None,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            trunk=trunk,
            backbones=pairs(backbone) or None,
            options=METHOD_OPTIONS,
        )
        print(f"{method} on {data}, with these options, takes {timing}")
        # from here on the same run, on one GPU unless more are asked for
        size, batch_size = size or "tiny", batch_size or timing.batch_size
        samples = timing.steps * timing.batch_size if samples is None else samples
        gpus = 1 if gpus is None else gpus
    planned = run(
        method,
        size=size or "huge",
        samples=1e9 if samples is None else samples,
        gpus=64 if gpus is None else gpus,
        gpu=gpu,
        data=data,
        fields=listed(fields) or (),
        tokens={modality: int(number) for modality, number in counts.items()},
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        ema=ema,
        precision=precision,
        trunk=trunk,
        backbones=pairs(backbone),
        options=METHOD_OPTIONS,
        mfu=mfu,
        efficiency=efficiency,
        price=price,
        per_machine=per_machine,
        network=network * 1e9 if network else None,
    )
    show(planned.table())


def align(
    data: Data,
    out: Out,
    backbone: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=SPEC",
            help="package:minilm, package:efficientnet_lite0, package:smollm2, "
            "timm:NAME[@WEIGHTS], transformers:DIR",
        ),
    ],
    method: Annotated[
        str,
        arg(
            help="cca, linear_heads, ape, clip, siglip, lit, gram, …; by default what does best on "
            "the validation part: the closed form, linear heads or perceptrons"
        ),
    ] = "",
    tokens: Annotated[
        bool,
        arg(help="cache all tokens, not their mean, for methods that need them; 16 times the disk"),
    ] = False,
    size: Annotated[
        str, arg(help=f"of the trained head: {SIZES}; by default wide for maps alone, else tiny")
    ] = "",
    fields: Fields = "",
    seed: int = 0,
    resume: Resume = False,
    accept_changed_code: Accept = False,
    device: Device = "auto",
    recipe: Recipes = DEFAULT,
) -> None:
    """Align frozen encoders in one space.

    Their features are computed once and cached. Maps in closed form, linear heads and perceptrons
    are compared on the validation part, and the best one is trained, in minutes.

    Options of a method that is given: --method.NAME VALUE."""
    from amodal.studies.align import align as run

    alignment = run(
        data,
        out,
        pairs(backbone),
        method=method,
        tokens=tokens,
        size=size,
        fields=listed(fields),
        options=METHOD_OPTIONS,
        resume=resume,
        seed=seed,
        accept_changed_code=accept_changed_code,
        device=device,
        **recipe_fields(recipe),
    )
    if alignment.summary:
        print(alignment.summary)
    print(f"wrote {out}. Next: {command_after_training(out, data)}")


def adapt(
    run: Run,
    data: Data,
    label: Annotated[
        str, arg(metavar="A,B", help="the labels to predict; for a survival time TIME,EVENT")
    ],
    out: Out,
    tuning: Annotated[
        str,
        arg(
            help="auto: compare a fine-tuned network with heads on frozen and simple features, and "
            "keep the best; or full, head, bias, lora, adapters, prompts, or a method that learns "
            "from a label, such as mmrl"
        ),
    ] = "auto",
    task: Annotated[
        str,
        arg(help="auto, by the type of each label, or survival; by default that of the method"),
    ] = "",
    shots: Annotated[
        int | None, arg(help="learn from this number of records of each class")
    ] = None,
    base_to_new: Annotated[
        bool, arg(help="learn from half of the classes; evaluate --protocols base_to_new")
    ] = False,
    seed: int = 0,
    resume: Resume = False,
    accept_changed_code: Accept = False,
    workers: Workers = 0,
    device: Device = "auto",
    recipe: Recipes = DEFAULT,
    code: Code = NONE,
) -> None:
    """Make a run predict labels: by fine-tuning, or by a head on what it knows already.

    By default both are tried, beside simple features, and what does best on the validation part is
    kept. Fine-tuning takes 30 epochs. Options of the tuning itself: --method.NAME VALUE.
    """
    from amodal.adapt import adapt as fine_tune

    with code.supplied(run):
        fine_tune(
            run,
            data,
            out,
            label=label,
            tuning=tuning,
            task=task,
            shots=shots,
            base_to_new=base_to_new,
            seed=seed,
            resume=resume,
            accept_changed_code=accept_changed_code,
            workers=workers,
            device=device,
            options=METHOD_OPTIONS,
            **recipe_fields(recipe),
        )
    own = "".join(f" --backbone {backbone}" for backbone in code.backbones)
    print(
        f"wrote {out}. Next: {command('evaluate', out, '--data', data)}{own}, "
        f"or {command('predict', out, '--data', data, '--out', 'predicted.csv')}{own}"
    )
