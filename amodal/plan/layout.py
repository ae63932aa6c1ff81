"""From a counted step to the memory, the time and the money that it takes, one process for each
GPU.

What is not counted but assumed stands here: the optimizer's traffic, the network, and what the
driver and the collectives keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amodal.methods.contract import Method
from amodal.nn.blocks import blocks_of
from amodal.plan.hardware import Accelerator
from amodal.plan.step import Cost, Steps
from amodal.train.distributed import BUCKET

GIB = 2**30
EFFICIENCY = 0.6
"""Share of published FLOP/s and bandwidth that an operation reaches. Assumed."""
RESERVED = 2 * GIB
"""CUDA context, buffers of NCCL and of cuBLAS, fragments. Assumed."""
FLOAT = 4
ADAMW = 2 * FLOAT
"""Bytes of state of a parameter."""
UPDATE = 40
"""Bytes that a step moves for each parameter that learns: gradient in and out of the norm and the
bucket, AdamW's reads and writes."""
FOLLOW = 3 * FLOAT
"""The same of a moving average."""


@dataclass(frozen=True)
class Numbers:
    """Parameters: all that learn, all that do not (a teacher), and of both those in blocks that
    FSDP2 shards; the largest block."""

    learning: int
    frozen: int
    learning_in_blocks: int
    frozen_in_blocks: int
    block: int
    encoder: int
    encoder_in_blocks: int

    @staticmethod
    def of(method: Method) -> Numbers:
        def numel(parameters, learns: bool | None = None) -> int:
            return sum(
                {id(p): p.numel() for p in parameters if learns in (None, p.requires_grad)}.values()
            )

        inside = [p for b in blocks_of(method) for p in b.parameters()]
        return Numbers(
            learning=numel(method.parameters(), True),
            frozen=numel(method.parameters(), False),
            learning_in_blocks=numel(inside, True),
            frozen_in_blocks=numel(inside, False),
            block=max((numel(b.parameters()) for b in blocks_of(method)), default=0),
            encoder=numel(method.encoder.parameters()),
            encoder_in_blocks=numel(p for b in blocks_of(method.encoder) for p in b.parameters()),
        )


@dataclass(frozen=True)
class Job:
    """What is to be done on which GPUs; rates are of one."""

    numbers: Numbers
    gpu: Accelerator
    batch: int
    gpus: int
    samples: float
    average: bool
    half: bool
    mfu: float | None
    efficiency: float
    price: float
    given_price: bool
    wire: float

    @staticmethod
    def of(
        method: Method, gpu: Accelerator, *, gpus: int, price, per_machine: int, network, **given
    ) -> Job:
        # rings cross from machine to machine on all of their network cards at once
        wire = (
            gpu.link
            if gpus <= per_machine
            else min(gpu.link, per_machine * (network or gpu.network))
        )
        return Job(
            Numbers.of(method),
            gpu,
            gpus=gpus,
            price=gpu.price if price is None else price,
            given_price=price is not None,
            wire=wire,
            **given,
        )

    @property
    def steps(self) -> int:
        return max(round(self.samples / self.batch), 1)

    @property
    def capacity(self) -> float:
        return self.gpu.memory

    @property
    def sends(self) -> float:
        """Share of a buffer that a ring sends through each process, one way."""
        return (self.gpus - 1) / self.gpus


@dataclass(frozen=True)
class Layout:
    """One way to run a job. memory: bytes of one GPU, by what they hold; computing, talking:
    seconds of a step; flops: of a step."""

    job: Job
    sharded: bool
    micro: int | None
    recompute: bool
    memory: dict[str, float]
    computing: float
    talking: float
    flops: float

    @property
    def name(self) -> str:
        split = ("FSDP2" if self.sharded else "DDP") if self.job.gpus > 1 else "one GPU"
        split += "" if self.micro is None else f", {self.micro} rows at once"
        return split + ", recompute" * self.recompute

    @property
    def command(self) -> str:
        asked = [f"--batch-size {self.job.batch}"]
        asked += ["--fsdp"] * self.sharded + [f"--micro-batch-size {self.micro}"] * (
            self.micro is not None
        )
        asked += ["--gradient-checkpointing"] * self.recompute
        return " ".join(asked)

    @property
    def total(self) -> float:
        return sum(size for name, size in self.memory.items() if not name.startswith(" "))

    @property
    def fits(self) -> bool:
        return self.total <= self.job.capacity

    @property
    def seconds(self) -> float:
        """Nothing overlaps: in DDP nothing does here, and in FSDP2 it is the worst case."""
        return self.computing + self.talking

    @property
    def days(self) -> float:
        return self.job.steps * self.seconds / 86400

    @property
    def hours(self) -> float:
        return 24 * self.days * self.job.gpus

    @property
    def cost(self) -> float:
        return self.hours * self.job.price

    @property
    def utilisation(self) -> float:
        peak = self.job.gpu.half if self.job.half else self.job.gpu.single
        return self.flops / self.seconds / peak


def ways(job: Job, steps: Steps, micro: int | None = None) -> Iterator[Layout]:
    """The whole share of a process at once. Where that does not fit, or `micro` is given: with
    activation checkpointing; and in micro-batches, `micro` rows or the most of 1/2, 1/4, … of them
    that fit; and both, if neither fits."""
    rows = job.batch // job.gpus
    loss, sent, given = steps.losses(rows).peak, steps.gathered() * job.batch, steps.given() * rows

    def way(sharded: bool, few: int | None, recompute: bool) -> Layout:
        return _layout(
            job, steps.cost(rows, few, recompute), loss, sent, given, sharded, few, rows, recompute
        )

    def in_pieces(sharded: bool, recompute: bool) -> Iterator[Layout]:
        few = micro if micro is not None else rows // 2
        while 0 < few < rows:
            found = way(sharded, few, recompute)
            if found.fits or micro is not None or few == 1:
                yield found
                break
            few //= 2

    for sharded in (False, True) if job.gpus > 1 else (False,):
        yield (whole := way(sharded, None, False))
        if whole.fits and micro is None:
            continue
        lighter = [way(sharded, None, True), *in_pieces(sharded, False)]
        yield from lighter
        if not any(each.fits for each in lighter):
            yield from in_pieces(sharded, True)


def _layout(
    job: Job,
    cost: Cost,
    loss: float,
    sent: float,
    given: float,
    sharded: bool,
    micro: int | None,
    rows: int,
    recompute: bool,
) -> Layout:
    n, pieces = job.numbers, 1 if micro is None else -(-rows // micro)
    kept = 1 / job.gpus if sharded else 1.0  # of what is in blocks

    def held(all_of_it: int, in_blocks: int) -> float:
        return all_of_it - in_blocks * (1 - kept)

    learning, frozen = held(n.learning, n.learning_in_blocks), held(n.frozen, n.frozen_in_blocks)
    averaged = held(n.encoder, n.encoder_in_blocks) if job.average else 0.0
    gradients = FLOAT * learning
    memory = {
        "weights": FLOAT * learning,
        "teacher, and weights that do not learn": FLOAT * frozen,
        "averaged weights": FLOAT * averaged,
        "optimizer state": ADAMW * learning,
        "gradients": gradients,
        "activations and temporaries": cost.beside,
        " of these: losses of the whole batch": loss,
        "records": given,
    }
    if sharded:
        memory["blocks put together: two, and one's gradient"] = 3 * FLOAT * n.block
    else:  # gradients come while activations go
        memory["not there at the same time"] = min(
            max(cost.peak, gradients) - gradients - cost.beside, 0.0
        )
    if job.gpus > 1:
        memory["buckets of the all-reduce"] = (
            2 * FLOAT * min(BUCKET, n.learning - n.learning_in_blocks * sharded)
        )
    memory["context, NCCL, fragments (assumed)"] = RESERVED

    e, gpu = job.efficiency, job.gpu
    if job.mfu is None:
        computing = cost.seconds(gpu.half * e, gpu.single * e, gpu.bandwidth * e, gpu.launch)
        computing += (UPDATE * learning + FOLLOW * (frozen + averaged)) / (gpu.bandwidth * e)
    else:
        computing = cost.flops / (job.mfu * (gpu.half if job.half else gpu.single))
    whole = n.learning - (n.learning_in_blocks if sharded else 0)
    moved = 2 * FLOAT * whole * job.sends + sent * job.sends
    # gathered for each pass, gradients scattered after the last; what is recomputed is gathered for
    # the backward pass anyway
    if sharded:
        forward = pieces + (pieces if micro is not None else 0)
        moved += (
            FLOAT
            * job.sends
            * (n.learning_in_blocks * (forward + 2 * pieces) + n.frozen_in_blocks * forward)
        )
    return Layout(
        job, sharded, micro, recompute, memory, computing, moved / (job.wire * e), cost.flops
    )
