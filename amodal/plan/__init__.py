"""`amodal plan`: memory, time and cost of a training run on accelerators, and how to split it.

The step is the library's own, counted at the planned size (`amodal.plan.counting`). Its time and
memory on a machine are modelled (`amodal.plan.layout`). The model was checked against measured runs
of small encoders on a CPU (`python -m benchmarks plan`), and on no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from amodal import data as records
from amodal import methods
from amodal.console import Printed
from amodal.core import AmodalError, Batch, unknown
from amodal.core.protocols import Staged
from amodal.core.recipe import PRECISIONS, accepts_old_names
from amodal.data import Loader
from amodal.methods.contract import Method
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.plan import examples, layout
from amodal.plan.counting import weightless
from amodal.plan.hardware import AS_OF, accelerator
from amodal.plan.layout import GIB, Job, Layout
from amodal.plan.step import EXAMPLES, Steps
from amodal.train.run_setup import classes_option, resolve_batch_size, targets_option
from amodal.train.run_tokens import with_bands, with_tokens
from amodal.train.schedule import start_stage


@dataclass(frozen=True)
class Plan(Printed):
    """A planned run.

    Args:
        layouts: Ways to run it.
        notes: Lines on what was counted.
    """

    job: Job
    layouts: tuple[Layout, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Layout | None:
        """The fastest layout that fits, None if none does."""
        return min((x for x in self.layouts if x.fits), key=lambda x: x.seconds, default=None)

    def table(self) -> Group:
        """The plan as rich renderables."""
        table = Table(title=None, title_justify="left")
        table.add_column("")
        for x in self.layouts:
            table.add_column(x.name, justify="right")
        for name in dict.fromkeys(n for x in self.layouts for n in x.memory):
            table.add_row(name, *(_gib(x.memory.get(name, 0.0)) for x in self.layouts))
        table.add_row(
            f"memory of {self.job.gpu.memory / GIB:.0f} GiB",
            *(_gib(w.total) for w in self.layouts),
            style="bold",
        )
        table.add_row("fits", *("yes" if w.fits else "no" for w in self.layouts), end_section=True)
        table.add_row("step: computing", *(_time(w.computing) for w in self.layouts))
        table.add_row("step: communication", *(_time(w.communication) for w in self.layouts))
        table.add_row(
            "samples per second",
            *(f"{self.job.batch_size / w.seconds:,.0f}" for w in self.layouts),
        )
        table.add_row("share of peak FLOP/s", *(f"{w.utilisation:.0%}" for w in self.layouts))
        table.add_row("days", *(f"{w.days:,.1f}" for w in self.layouts), style="bold")
        table.add_row("GPU hours", *(f"{w.hours:,.0f}" for w in self.layouts))
        table.add_row("cost, $", *(f"{w.cost:,.0f}" for w in self.layouts))
        return Group("\n".join(self.notes), table, self._advice(), WARNING)

    def _advice(self) -> str:
        best = self.best
        if best is None:
            return (
                "None of these fits: take more GPUs with --fsdp, a smaller --size or --batch-size, "
                "or GPUs with more memory."
            )
        saves_memory = (
            best.option.micro_batch_size is not None or best.option.gradient_checkpointing
        )
        return f"Take {best.name}: {best.command}{WHY if saves_memory else ''}"


WHY = (
    " (the fastest that fits; micro-batches and gradient checkpointing each cost about one more "
    "forward pass)"
)
WARNING = """\
Not tested on accelerators. FLOPs, parameters and tensors are counted in the method's own step; the
peak memory and step time that follow from them were checked on a CPU only (docs/scaling.md has the
errors). Times assume that records arrive as fast as they are used, and that communication does not
overlap with computing."""


def check_records(
    data: Any, tokens: Mapping[str, Any] | None, fields: Sequence[str] | None = None
) -> None:
    """Raise an AmodalError where records are given and their tokens too, or fields of none."""
    if data is not None and tokens:
        raise AmodalError("give data or tokens, not both: records have the tokens that they have")
    if data is None and fields:
        raise AmodalError(
            "fields are of records: say which with data (--data), or give tokens (--tokens) of the "
            "modalities that are to be counted"
        )


@accepts_old_names
def plan(
    method: str = "clip",
    *,
    size: str = "huge",
    samples: float = 1e9,
    gpus: int = 64,
    gpu: str = "h100",
    data: Any = None,
    fields: Sequence[str] = (),
    tokens: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    ema: bool = False,
    precision: str = "bf16",
    trunk: str | None = None,
    backbones: Mapping[str, str] | None = None,
    options: dict[str, object] | None = None,
    mfu: float | None = None,
    efficiency: float = layout.EFFICIENCY,
    price: float | None = None,
    per_machine: int = 8,
    network: float | None = None,
) -> Plan:
    """Plan a run that trains on `samples` records.

    Args:
        samples: Records to train on, over all epochs.
        gpus: Number of GPUs, with one process each.
        gpu: A name of `amodal.plan.hardware.GPUS`.
        data: The data to count with, as `amodal.open` takes it.
        fields: Of the data, by default all.
        tokens: Without data, modality -> tokens of a value of synthetic records.
        batch_size, micro_batch_size, precision, trunk, options: As in `amodal.pretrain`.
        backbones: Field -> a spec as in `amodal.pretrain`, trained if it is from scratch. Fields of
            synthetic records are called as their modalities.
        ema: Whether an average of the weights is kept.
        mfu: Share of the peak FLOP/s that a step reaches. By default every operation takes as long
            as its products at the published peak, or its traffic at the published bandwidth, over
            `efficiency`.
        price: US dollars per hour of one GPU.
        per_machine: GPUs of a machine.
        network: Bytes/s that a GPU sends to other machines; by default as in
            `amodal.plan.hardware`.

    Raises:
        AmodalError: For impossible values, and for a method whose cost depends on its weights.
    """
    for name, number in (
        ("samples", samples),
        ("gpus", gpus),
        ("per_machine", per_machine),
        ("efficiency", efficiency),
    ):
        if not number > 0:
            raise AmodalError(f"{name} must be above 0, not {number}")
    check_records(data, tokens, fields)
    if mfu is not None and not 0 < mfu <= 1:
        raise AmodalError(f"mfu is a share of the peak, between 0 and 1, not {mfu}")
    if precision not in ("bf16", "float32"):
        raise unknown("precision to plan with", precision, [p for p in PRECISIONS if p != "auto"])
    tokens = tokens or examples.default_tokens()
    if data is not None:
        dataset = records.open(data)
        dataset = dataset.select(list(fields)) if fields else dataset
        part = dataset.split("train")
        dataset = with_bands(dataset, methods.bands(method))
        dataset = records.learn_tokens(
            with_tokens(dataset, methods.tokens(method)), part, shared=methods.shares_tokens(method)
        )
    else:
        dataset = examples.synthetic_records(tokens, EXAMPLES)
        dataset = with_bands(dataset, methods.bands(method))
        part = dataset.split("all")
    chosen: dict[str, Any] = methods.parse(method, options or {})
    chosen |= classes_option(method, chosen, dataset)
    chosen |= targets_option(method, chosen, dataset, part)
    shape: dict[str, Any] = methods.encoder_options(method) | ({"trunk": trunk} if trunk else {})

    def build() -> Method:
        # from scratch they learn, with weights they stay frozen, as in `pretrain` by default
        bodies = encoder_config.backbones(backbones or {}, dataset.fields, size, frozen=True)
        encoder = Encoder(dataset.fields, size=size, backbones=bodies, **shape)
        return methods.build(method, encoder, **chosen)

    built = weightless(build)
    stage_note = _enter_longest_stage(built)
    rows = resolve_batch_size(
        batch_size, size_of(size).batch, int(samples), gpus, built.min_batch_size
    )
    loader = Loader(dataset, part, batch=EXAMPLES, views=built.views, labels=built.labels)
    batch = loader.load(0)[0]
    job = Job.of(
        built,
        accelerator(gpu),
        batch_size=rows,
        gpus=gpus,
        samples=samples,
        ema=ema,
        half=precision == "bf16",
        mfu=mfu,
        efficiency=efficiency,
        price=price,
        per_machine=per_machine,
        network=network,
    )
    steps = Steps(built, batch, partial(_precision, precision), gpus)
    source = f"{batch.size} records of {dataset.name}"
    if data is None:
        shown = " ".join(f"{k}={n}" for k, n in tokens.items())
        source = f"synthetic records, {shown} (--tokens, or give --data)"
    notes = (
        f"{method}, size {size}, trunk {built.encoder.trunk}: {_parameters(built)}",
        f"tokens per row: {_tokens(built.encoder, batch)}; counted with {source}",
        f"{samples:,.0f} samples in {job.steps:,} steps of {rows:,} rows on {gpus} {gpu}, "
        f"{job.rows} each",
        *stage_note,
        *_assumptions(job),
    )
    return Plan(job, tuple(layout.layouts(job, steps, micro_batch_size)), notes)


def _precision(name: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16")


def _enter_longest_stage(method: Method) -> tuple[str, ...]:
    """Start the stage with the most steps, whose step is counted. Returns a note, or nothing."""
    ends = method.stages if isinstance(method, Staged) else (1.0,)
    shares = [end - start for start, end in zip((0.0, *ends), ends)]
    longest = max(range(len(shares)), key=lambda i: shares[i])
    start_stage(method, longest)
    if len(shares) == 1:
        return ()
    return (
        f"it learns in {len(shares)} stages: counted is a step of stage {longest + 1}, which has "
        f"{shares[longest]:.0%} of the steps",
    )


def _parameters(method: Method) -> str:
    encoder, total = (
        sum(p.numel() for p in module.parameters()) for module in (method.encoder, method)
    )
    return f"{encoder / 1e6:,.1f} M parameters in the encoder, {total / 1e6:,.1f} M in all"


def _tokens(encoder: Encoder, batch: Batch) -> str:
    with torch.no_grad():
        tokens = encoder.tokenize(batch)
    return ", ".join(f"{s} {len(part) / batch.size:.0f}" for s, part in tokens.items())


def _assumptions(job: Job) -> tuple[str, str]:
    speed = (
        f"at {job.efficiency:.0%} of published peak FLOP/s and bandwidth for every operation "
        "(assumed: --mfu, --efficiency)"
    )
    if job.mfu:
        speed = f"at {job.mfu:.0%} of the peak FLOP/s (--mfu)"
    price = "as set" if job.custom_price else f"about the price in {AS_OF}: --price"
    return (
        f"speed: {speed}",
        f"${job.price:.2f} per hour of a GPU ({price}); memory in GiB of one GPU",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


__all__ = ["Layout", "Plan", "plan"]
