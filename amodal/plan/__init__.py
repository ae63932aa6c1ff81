"""What a training run would take on accelerators that are not here: memory, time, money, and how to
split it.

The step is the library's own, counted at the size asked for (`amodal.plan.counting`); what a
machine makes of it is a model (`amodal.plan.layout`), checked against measured runs of small
encoders on a CPU by `python -m benchmarks plan`, and on no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from rich.console import Group
from rich.table import Table
from torch import nn

from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, Batch, unknown
from amodal.data import Dataset, Loader
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.plan import examples, layout
from amodal.plan.counting import weightless
from amodal.plan.hardware import AS_OF, accelerator
from amodal.plan.layout import GIB, Job, Layout
from amodal.plan.step import EXAMPLES, Steps
from amodal.train.precision import CHOICES
from amodal.train.run_setup import classes_of, rows_of_a_batch, targets_read


@dataclass(frozen=True)
class Plan:
    """job: what is asked for; layouts: ways to run it, the recommended one first if any fits;
    about: lines on what was counted."""

    job: Job
    layouts: tuple[Layout, ...]
    about: tuple[str, ...]

    @property
    def best(self) -> Layout | None:
        """The fastest that fits."""
        return min((x for x in self.layouts if x.fits), key=lambda x: x.seconds, default=None)

    def table(self) -> Group:
        table = Table(title=None, title_justify="left")
        table.add_column("")
        for way in self.layouts:
            table.add_column(way.name, justify="right")
        for name in dict.fromkeys(n for way in self.layouts for n in way.memory):
            table.add_row(name, *(_gib(way.memory.get(name, 0.0)) for way in self.layouts))
        table.add_row(
            f"memory of {self.job.capacity / GIB:.0f} GiB",
            *(_gib(w.total) for w in self.layouts),
            style="bold",
        )
        table.add_row("fits", *("yes" if w.fits else "no" for w in self.layouts), end_section=True)
        table.add_row("step: computing", *(_time(w.computing) for w in self.layouts))
        table.add_row("step: between GPUs", *(_time(w.talking) for w in self.layouts))
        table.add_row(
            "samples a second", *(f"{self.job.batch / w.seconds:,.0f}" for w in self.layouts)
        )
        table.add_row("share of peak FLOP/s", *(f"{w.utilisation:.0%}" for w in self.layouts))
        table.add_row("days", *(f"{w.days:,.1f}" for w in self.layouts), style="bold")
        table.add_row("GPU hours", *(f"{w.hours:,.0f}" for w in self.layouts))
        table.add_row("cost, $", *(f"{w.cost:,.0f}" for w in self.layouts))
        best = self.best
        chosen = (
            f"Take {best.name}: {best.command}{'' if best.micro is None and not best.recompute else WHY}"
            if best
            else "None of these fits: take more GPUs with --fsdp, a smaller --size or --batch-size, or GPUs with more memory."
        )
        return Group("\n".join(self.about), table, chosen, WARNING)


WHY = " (the fastest that fits; micro-batches and recomputation each cost about one more forward pass)"
WARNING = """Not tested: no accelerator was at hand. FLOPs, parameters and tensors are counted in the method's own step; the peak of memory
and the step time that follow from them were checked on a CPU only (docs/scaling.md has the errors). Times assume that records
arrive as fast as they are used, and that nothing that is sent overlaps with computing."""


def plan(
    method: str = "clip",
    *,
    size: str = "huge",
    samples: float = 1e9,
    gpus: int = 64,
    gpu: str = "h100",
    data=None,
    tokens: dict[str, int] | None = None,
    batch: int | None = None,
    micro: int | None = None,
    average: bool = False,
    precision: str = "bf16",
    trunk: str | None = None,
    options: dict[str, object] | None = None,
    mfu: float | None = None,
    efficiency: float = layout.EFFICIENCY,
    price: float | None = None,
    per_machine: int = 8,
    network: float | None = None,
) -> Plan:
    """Count what it takes to show `samples` records to `method` on so many GPUs.

    data: whose records to count with; without, tokens: kind of data -> tokens of a value. batch,
    micro, precision, trunk, options: as in `amodal.pretrain`; average: whether an average of the
    weights is kept. mfu: share of the peak FLOP/s that a step reaches; unless given, every
    operation takes as long as its products at the published peak, or its traffic at the published
    bandwidth, over `efficiency`. price: dollars an hour of one GPU; per_machine: GPUs in a machine;
    network: bytes/s that a GPU sends to others, unless as `amodal.plan.hardware` has it. Raises
    AmodalError for a method whose cost depends on what it learns.
    """
    for name, number in (
        ("samples", samples),
        ("gpus", gpus),
        ("per_machine", per_machine),
        ("efficiency", efficiency),
    ):
        if not number > 0:
            raise AmodalError(f"{name} must be more than 0, not {number}")
    if data is not None and tokens:
        raise AmodalError("give data or tokens, not both: records have the tokens that they have")
    if mfu is not None and not 0 < mfu <= 1:
        raise AmodalError(f"mfu is a share of the peak, between 0 and 1, not {mfu}")
    if precision not in ("bf16", "float32"):
        raise unknown("precision to plan with", precision, [c for c in CHOICES if c != "auto"])
    tokens = tokens or dict(examples.DEFAULT)
    dataset = records.open(data) if data is not None else examples.made_up(tokens, EXAMPLES)
    part = dataset.split("train") if data is not None else dataset.split("all")
    chosen: dict[str, Any] = methods.parse(method, options or {})
    chosen |= classes_of(method, chosen, dataset) | targets_read(method, chosen, dataset, part)
    shape: dict[str, Any] = methods.encoder_options(method) | ({"trunk": trunk} if trunk else {})
    fields = cast("dict[str, nn.Module]", dataset.fields)
    trainee = weightless(
        lambda: methods.build(method, Encoder(fields, size=size, **shape), **chosen)
    )
    rows = rows_of_a_batch(batch, size_of(size).batch, int(samples), gpus, trainee.min_batch_size)
    seen = Loader(dataset, part, batch=EXAMPLES, views=trainee.views, labels=trainee.labels).load(0)[
        0
    ]
    job = Job.of(
        trainee,
        accelerator(gpu),
        batch=rows,
        gpus=gpus,
        samples=samples,
        average=average,
        half=precision == "bf16",
        mfu=mfu,
        efficiency=efficiency,
        price=price,
        per_machine=per_machine,
        network=network,
    )
    steps = Steps(trainee, seen, partial(_precision, precision), gpus)
    ways = layout.ways(job, steps, micro)
    about = _about(job, method, size, gpu, trainee, dataset, seen, tokens if data is None else None)
    return Plan(job, tuple(ways), about)


def _precision(name: str):
    return torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16")


def _about(
    job: Job, method, size, gpu, trainee, dataset: Dataset, seen: Batch, made_up: dict | None
) -> tuple[str, ...]:
    encoder = trainee.encoder
    with torch.no_grad():
        bags = encoder.tokenize(seen)
    there = ", ".join(f"{s} {len(bag) / seen.size:.0f}" for s, bag in bags.items())
    source = (
        f"records made up of {' '.join(f'{k}={n}' for k, n in made_up.items())} (--tokens, or give --data)"
        if made_up
        else f"{seen.size} records of {dataset.name}"
    )
    effort = (
        f"at {job.mfu:.0%} of the peak FLOP/s (--mfu)"
        if job.mfu
        else f"at {job.efficiency:.0%} of published peak FLOP/s and bandwidth, operation by operation (assumed: --mfu, --efficiency)"
    )
    known, learning = (
        sum(p.numel() for p in encoder.parameters()),
        sum(p.numel() for p in trainee.parameters()),
    )
    price = "as given" if job.given_price else f"about what it was in {AS_OF}: --price"
    return (
        f"{method}, size {size}, trunk {encoder.trunk}: {known / 1e6:,.1f} M parameters in the encoder, {learning / 1e6:,.1f} M in all",
        f"tokens a row: {there}; counted with {source}",
        f"{job.samples:,.0f} samples in {job.steps:,} steps of {job.batch:,} rows on {job.gpus} {gpu}, {job.batch // job.gpus} each",
        f"speed: {effort}",
        f"${job.price:.2f} an hour of a GPU ({price}); memory in GiB of one GPU",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


__all__ = ["Layout", "Plan", "plan"]
