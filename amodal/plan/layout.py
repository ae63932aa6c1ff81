"""Memory, time and cost of a run, from the counted step and a model of the machines.

One process runs on each GPU. The model's assumptions are the constants of this module: the traffic
of the optimizer, the network, and the memory of the driver and the collectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from amodal.methods.contract import Method
from amodal.nn.blocks import blocks_of
from amodal.plan.hardware import Accelerator
from amodal.plan.step import Cost, Steps
from amodal.train.gradient_sync import numbers_in_flight

GIB = 2**30
EFFICIENCY = 0.6
"""Share of published FLOP/s and bandwidth that an operation reaches. Assumed."""
RESERVED = 2 * GIB
"""CUDA context, buffers of NCCL and of cuBLAS, fragmentation. Assumed."""
FLOAT = 4
ADAMW = 2 * FLOAT
"""Bytes of optimizer state per parameter."""
UPDATE = 40
"""Bytes that an optimizer step moves per trained parameter: the gradient in and out of the norm and
the bucket, and AdamW's reads and writes."""
EMA_UPDATE = 3 * FLOAT
"""The same for an exponential moving average."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters.

    Args:
        trained, frozen: Of the method. Frozen ones are, for example, those of a teacher.
        trained_in_blocks, frozen_in_blocks: Of these, those in blocks, which FSDP2 shards.
        largest_block: Of the largest block.
        in_buckets, in_buckets_outside_blocks: In buckets of the all-reduce at once, of all trained
            ones, and of those outside blocks.
        encoder, encoder_in_blocks: Of the encoder.
    """

    trained: int
    frozen: int
    trained_in_blocks: int
    frozen_in_blocks: int
    largest_block: int
    in_buckets: int
    in_buckets_outside_blocks: int
    encoder: int
    encoder_in_blocks: int

    @staticmethod
    def of(method: Method) -> ParameterCounts:
        def count(parameters: Iterable[nn.Parameter], trained: bool | None = None) -> int:
            # by id, since parameters may be shared
            sizes = {id(p): p.numel() for p in parameters if trained in (None, p.requires_grad)}
            return sum(sizes.values())

        blocks = list(blocks_of(method))
        in_blocks = [p for block in blocks for p in block.parameters()]
        ids = {id(p) for p in in_blocks}
        learning = [p for p in method.parameters() if p.requires_grad]
        return ParameterCounts(
            trained=count(method.parameters(), True),
            frozen=count(method.parameters(), False),
            trained_in_blocks=count(in_blocks, True),
            frozen_in_blocks=count(in_blocks, False),
            largest_block=max((count(block.parameters()) for block in blocks), default=0),
            in_buckets=numbers_in_flight(learning),
            in_buckets_outside_blocks=numbers_in_flight(p for p in learning if id(p) not in ids),
            encoder=count(method.encoder.parameters()),
            encoder_in_blocks=count(
                p for block in blocks_of(method.encoder) for p in block.parameters()
            ),
        )


@dataclass(frozen=True)
class Job:
    """A run to plan.

    Args:
        gpu: Figures of one GPU.
        batch_size: Rows of an optimizer step, over all GPUs.
        samples: Records to train on, over all epochs.
        ema: Whether an average of the weights is kept.
        half: Whether features are computed in bf16.
        mfu: Share of the peak FLOP/s that a step reaches; None to model every operation.
        efficiency: Share of published figures that an operation reaches.
        price: US dollars per hour of a GPU.
        custom_price: Whether the user has set it.
        wire: Bytes/s that a GPU sends to others.
    """

    parameters: ParameterCounts
    gpu: Accelerator
    batch_size: int
    gpus: int
    samples: float
    ema: bool
    half: bool
    mfu: float | None
    efficiency: float
    price: float
    custom_price: bool
    wire: float

    @staticmethod
    def of(
        method: Method,
        gpu: Accelerator,
        *,
        batch_size: int,
        gpus: int,
        samples: float,
        ema: bool,
        half: bool,
        mfu: float | None,
        efficiency: float,
        price: float | None,
        per_machine: int,
        network: float | None,
    ) -> Job:
        """A job whose price and network are those of the GPU unless given.

        Args:
            per_machine: GPUs of a machine.
            network: Bytes/s that a GPU sends to other machines.
        """
        # a ring uses all network cards of a machine at once
        wire = gpu.link
        if gpus > per_machine:
            wire = min(gpu.link, per_machine * (network or gpu.network))
        return Job(
            parameters=ParameterCounts.of(method),
            gpu=gpu,
            batch_size=batch_size,
            gpus=gpus,
            samples=samples,
            ema=ema,
            half=half,
            mfu=mfu,
            efficiency=efficiency,
            price=gpu.price if price is None else price,
            custom_price=price is not None,
            wire=wire,
        )

    @property
    def steps(self) -> int:
        return max(round(self.samples / self.batch_size), 1)

    @property
    def rows(self) -> int:
        """Rows of an optimizer step on one GPU."""
        return self.batch_size // self.gpus

    @property
    def ring_share(self) -> float:
        """Share of a buffer that a ring sends through each process, one way."""
        return (self.gpus - 1) / self.gpus


@dataclass(frozen=True)
class Option:
    """How a step is split and what is recomputed."""

    fsdp: bool
    micro_batch_size: int | None
    gradient_checkpointing: bool


@dataclass(frozen=True)
class Layout:
    """One way to run a job.

    Args:
        memory: Bytes of one GPU, by content. Entries whose name starts with a space are parts of
            others.
        computing, communication: Seconds of a step.
        flops: Of a step.
    """

    job: Job
    option: Option
    memory: dict[str, float]
    computing: float
    communication: float
    flops: float

    @property
    def name(self) -> str:
        option = self.option
        name = ("FSDP2" if option.fsdp else "DDP") if self.job.gpus > 1 else "one GPU"
        if option.micro_batch_size is not None:
            name += f", micro-batches of {option.micro_batch_size}"
        return name + ", gradient checkpointing" * option.gradient_checkpointing

    @property
    def command(self) -> str:
        """The options of `amodal pretrain`."""
        option = self.option
        words = [f"--batch-size {self.job.batch_size}"]
        if option.fsdp:
            words.append("--fsdp")
        if option.micro_batch_size is not None:
            words.append(f"--micro-batch-size {option.micro_batch_size}")
        if option.gradient_checkpointing:
            words.append("--gradient-checkpointing")
        return " ".join(words)

    @property
    def total(self) -> float:
        """Bytes of memory of one GPU."""
        return sum(size for name, size in self.memory.items() if not name.startswith(" "))

    @property
    def fits(self) -> bool:
        return self.total <= self.job.gpu.memory

    @property
    def seconds(self) -> float:
        """Of a step, without overlap: DDP has none here, and in FSDP2 it is the worst case."""
        return self.computing + self.communication

    @property
    def days(self) -> float:
        return self.job.steps * self.seconds / 86400

    @property
    def hours(self) -> float:
        """GPU hours of the run."""
        return 24 * self.days * self.job.gpus

    @property
    def cost(self) -> float:
        return self.hours * self.job.price

    @property
    def utilisation(self) -> float:
        """Share of the peak FLOP/s."""
        peak = self.job.gpu.half if self.job.half else self.job.gpu.single
        return self.flops / self.seconds / peak


def layouts(job: Job, steps: Steps, micro_batch_size: int | None = None) -> Iterator[Layout]:
    """Layouts of a job.

    First without micro-batches. Where that does not fit, or `micro_batch_size` is given: with
    gradient checkpointing; with micro-batches; and with both if neither fits. The size of
    micro-batches is `micro_batch_size`, or the largest of 1/2, 1/4, … of the rows that fits.
    """

    def layout(option: Option) -> Layout:
        return _layout(job, steps, option)

    def in_micro_batches(fsdp: bool, gradient_checkpointing: bool) -> Iterator[Layout]:
        if micro_batch_size is None and steps.whole:
            return  # its batch statistics are of all rows
        rows = micro_batch_size if micro_batch_size is not None else job.rows // 2
        least = sum(_weights(job, Option(fsdp, rows, gradient_checkpointing)).values())
        if micro_batch_size is None and least + RESERVED > job.gpu.memory:
            rows = min(rows, 1)  # whatever is computed at once, the weights alone are too much
        while 0 < rows < job.rows:
            candidate = layout(Option(fsdp, rows, gradient_checkpointing))
            if candidate.fits or micro_batch_size is not None or rows == 1:
                yield candidate
                break
            rows //= 2

    for fsdp in (False, True) if job.gpus > 1 else (False,):
        yield (whole := layout(Option(fsdp, None, False)))
        if whole.fits and micro_batch_size is None:
            continue
        lighter = [layout(Option(fsdp, None, True)), *in_micro_batches(fsdp, False)]
        yield from lighter
        if not any(candidate.fits for candidate in lighter):
            yield from in_micro_batches(fsdp, True)


def _layout(job: Job, steps: Steps, option: Option) -> Layout:
    cost = steps.cost(job.rows, option.micro_batch_size, option.gradient_checkpointing)
    return Layout(
        job=job,
        option=option,
        memory=_memory(job, steps, option, cost),
        computing=_computing(job, option, cost),
        communication=_bytes_sent(job, steps, option) / (job.wire * job.efficiency),
        flops=cost.flops,
    )


def _held(job: Job, option: Option, parameters: int, in_blocks: int) -> float:
    """Parameters that one GPU holds, of which FSDP2 shards those in blocks."""
    share = 1 / job.gpus if option.fsdp else 1.0
    return parameters - in_blocks * (1 - share)


def _counts_held(job: Job, option: Option) -> tuple[float, float, float]:
    """Trained, frozen and averaged parameters that one GPU holds."""
    n = job.parameters
    averaged = _held(job, option, n.encoder, n.encoder_in_blocks) if job.ema else 0.0
    return (
        _held(job, option, n.trained, n.trained_in_blocks),
        _held(job, option, n.frozen, n.frozen_in_blocks),
        averaged,
    )


def _weights(job: Job, option: Option) -> dict[str, float]:
    """Memory that is taken all the time, however few rows are computed at once."""
    trained, frozen, averaged = _counts_held(job, option)
    return {
        "weights": FLOAT * trained,
        "teacher and other frozen weights": FLOAT * frozen,
        "averaged weights": FLOAT * averaged,
        "optimizer state": ADAMW * trained,
    }


def _memory(job: Job, steps: Steps, option: Option, cost: Cost) -> dict[str, float]:
    n = job.parameters
    gradients = FLOAT * _counts_held(job, option)[0]
    memory = {
        **_weights(job, option),
        "gradients": gradients,
        "activations and temporaries": cost.peak_without_gradients,
        " of these: losses of the whole batch": steps.losses(job.rows).peak,
        "records": steps.record_bytes * job.rows,
    }
    if option.fsdp:
        memory["two unsharded blocks, and the gradient of one"] = 3 * FLOAT * n.largest_block
    else:
        # gradients are allocated while activations are freed
        memory["not there at the same time"] = min(
            max(cost.peak, gradients) - gradients - cost.peak_without_gradients, 0.0
        )
    if job.gpus > 1:
        held = n.in_buckets_outside_blocks if option.fsdp else n.in_buckets
        memory["buckets of the all-reduce"] = FLOAT * held
    memory["context, NCCL, fragmentation (assumed)"] = RESERVED
    return memory


def _computing(job: Job, option: Option, cost: Cost) -> float:
    e, gpu = job.efficiency, job.gpu
    if job.mfu is not None:
        return cost.flops / (job.mfu * (gpu.half if job.half else gpu.single))
    trained, frozen, averaged = _counts_held(job, option)
    seconds = cost.seconds(gpu.half * e, gpu.single * e, gpu.bandwidth * e, gpu.launch)
    moved = UPDATE * trained + EMA_UPDATE * (frozen + averaged)
    return seconds + moved / (gpu.bandwidth * e)


def _bytes_sent(job: Job, steps: Steps, option: Option) -> float:
    """Bytes that a GPU sends in a step."""
    n, micro = job.parameters, option.micro_batch_size
    unsharded = n.trained - (n.trained_in_blocks if option.fsdp else 0)
    features = steps.feature_bytes * job.batch_size
    sent = 2 * FLOAT * unsharded * job.ring_share + features * job.ring_share
    if option.fsdp:
        # blocks are gathered for each pass, and gradients scattered after the last one; for
        # recomputation they are gathered anyway by the backward pass
        pieces = 1 if micro is None else -(-job.rows // micro)
        forward = pieces + (pieces if micro is not None else 0)
        sent += (
            FLOAT
            * job.ring_share
            * (n.trained_in_blocks * (forward + 2 * pieces) + n.frozen_in_blocks * forward)
        )
    return sent
