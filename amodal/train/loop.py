"""THE loop. It names no method; what a method needs of it is in `amodal.methods.contract`."""

from __future__ import annotations

import bisect
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.core.clock import Clock
from amodal.core.matmul import fast_products
from amodal.core.protocols import CombinesGradients, FitsStatistics, Refreshes, Staged
from amodal.data.loader import workers_watched
from amodal.diagnose.conflict import conflict
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import follow, frozen_copy
from amodal.nn.gradient_checkpointing import recomputation
from amodal.progress import Bar
from amodal.train import checkpoint, distributed
from amodal.train.collapse_monitor import Watch, told
from amodal.train.log import Log
from amodal.train.loss_monitor import Finite, Numbers
from amodal.train.optim import adamw, clip_gradients, warm_cosine
from amodal.train.precision import context
from amodal.train.prefetch import prefetch
from amodal.train.step import gradients


@dataclass(frozen=True)
class Schedule:
    """steps: optimizer steps. micro: rows computed at once, None for the whole batch; the update is the same. recompute: activation
    checkpointing of blocks; the update is the same. warmup: share of the steps. clip: largest gradient norm. average: momentum of an
    average of the encoder's weights that is what is kept, 0 for none. conflict: whether to measure the terms of the loss against each
    other. *_every: steps between entries, measurements, checkpoints; 0 lets the number of steps decide."""

    steps: int
    lr: float
    micro: int | None = None
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    precision: str = "auto"
    average: float = 0.0
    log_every: int = 10
    watch_every: int = 0
    checkpoint_every: int = 0
    shard: bool = False
    recompute: bool = False
    conflict: bool = False


class Training(nn.Module):
    """All that a checkpoint holds: the method, the average of its encoder's weights if one is kept, and the groups that the
    records to train on fell into in the last refresh, -1 for a record that is left out, and everywhere for no groups."""

    def __init__(self, method: Method, average: float, records: int = 0):
        super().__init__()
        self.method = method
        self.average = frozen_copy(method.encoder) if average else None
        if records:
            self.register_buffer("groups", torch.full((records,), -1))

    @property
    def kept(self) -> nn.Module:
        """The encoder that survives."""
        return self.average if self.average is not None else self.method.encoder

    @property
    def grouped(self) -> np.ndarray | None:
        groups = getattr(self, "groups", None)
        return None if groups is None or (groups < 0).all() else groups.cpu().numpy()


@dataclass(frozen=True)
class Stages:
    """ends: the last step of each stage, 1, 2, …"""

    ends: tuple[int, ...]

    @staticmethod
    def of(shares: Sequence[float], steps: int) -> Stages:
        return Stages((*(max(1, round(share * steps)) for share in shares[:-1]), steps))

    def at(self, step: int) -> int:
        """The stage that step 1, 2, … belongs to."""
        return bisect.bisect_left(self.ends, step)

    def place(self, step: int) -> tuple[int, int]:
        """(step of its stage 0, 1, …, steps of that stage)."""
        stage = self.at(step)
        start = self.ends[stage - 1] if stage else 0
        return step - start - 1, self.ends[stage] - start


@fast_products()
def train(
    method: Method,
    batches: Callable[..., Iterable[Batch]],
    schedule: Schedule,
    run: Path,
    *,
    watch: Watch,
    resume: bool = False,
    records: Iterable[Batch] | None = None,
    choose: Callable[[Method, Batch, int], Batch] | None = None,
    device: torch.device | None = None,
    bad: Callable[[], int] = lambda: 0,
    tensorboard: bool = True,
    progress: bool = True,
) -> nn.Module:
    """Train, and return the encoder that is to be kept.

    batches: first step -> this rank's share of the batches from that step on; called with a second argument, the group of each
    record, where the method has asked for batches of one group. records: all records to train on in order and as they are, for
    methods that fit statistics or refresh. choose: (method, batch, step) -> the rows of it to learn from. bad: how many values were
    put in quarantine so far. Raises Stopped on NaN or collapse; KeyboardInterrupt after a checkpoint when interrupted.
    """
    device = device or torch.device("cpu")
    staged, refreshes, studies = (isinstance(method, p) for p in (Staged, Refreshes, FitsStatistics))
    stages = Stages.of(method.stages if staged else (1.0,), schedule.steps)
    if (refreshes or studies) and records is None:
        raise AmodalError(
            "this method looks at all records, before it begins or between stages, and needs them as `records`"
        )
    if schedule.conflict and distributed.world() > 1:
        raise AmodalError("--conflict compares gradients in one process; leave it out under torchrun")
    training = Training(method, schedule.average, len(records.indices) if refreshes else 0).to(device).train()
    distributed.same_everywhere(training)
    if schedule.shard and distributed.world() > 1:
        if isinstance(method, CombinesGradients):
            raise AmodalError(
                "this method combines whole gradients, which sharded weights do not have; leave --shard out"
            )
        distributed.shard(training)
    folder, first, spent = run / "checkpoints", 0, 0.0
    found = checkpoint.latest(folder) if resume else None
    stage = stages.at(checkpoint.step_of(found)) if found else 0

    def look(stage: int) -> None:
        if refreshes:
            precision = context(schedule.precision, device, method.encoder.width)
            refresh(training, stage, lambda: embed_all(method, records, device, precision))

    if studies and not found:
        method.fit_statistics(records)
        distributed.same_everywhere(training)
    if refreshes and method.refresh_first and not found:
        look(stage)
    start_stage(method, stage)
    optimizer = fresh(method, schedule)
    if found:
        state = checkpoint.load(found, training, optimizer)
        first, spent = state["step"], state["seconds"]
        torch.set_rng_state(torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8))

    def save(step: int) -> Path:
        state = {"rng": bytes(torch.get_rng_state().tolist()).hex(), "steps": schedule.steps, "seconds": seconds()}
        return checkpoint.save(folder, step, training, optimizer, state)

    def stopped(found: Numbers) -> str:
        terms = ", ".join(f"{k} {v:.3g}" for k, v in found.terms.items())
        return (
            f"stopped at step {found.step}: the loss is {found.loss} and the gradient norm {found.norm:.3g} (terms: {terms}). "
            f"A lower learning rate (--lr, now {schedule.lr:g}) or --precision float32 may help; "
            f"{told(checkpoint.latest(folder))}."
        )

    def seconds() -> float:
        return round(spent + time.monotonic() - begun, 1)

    leads = distributed.rank() == 0
    log = Log(run, resume_at=first, tensorboard=tensorboard) if leads else None
    watch_every = schedule.watch_every or max(schedule.steps // 20, 10)
    checkpoint_every = schedule.checkpoint_every or max(schedule.steps // 5, 50)
    bar = Bar("pretrain", schedule.steps, start=first, shown=progress and leads)
    waited, begun, rows = 0.0, time.monotonic(), 0
    finite = Finite(stopped)
    with bar, workers_watched(), interruptions() as interrupted, Stream(batches) as stream, finite:
        stream.open(first, training.grouped)
        for step in range(first + 1, schedule.steps + 1):
            if stages.at(step) != stage:
                finite.look()
                stage = stages.at(step)
                look(stage)
                start_stage(method, stage)
                optimizer = fresh(method, schedule)
                stream.open(step - 1, training.grouped)
            asked = time.monotonic()
            batch = next(stream).to(device)
            waited += time.monotonic() - asked
            if choose is not None:
                batch = choose(method, batch, step)
            within, length = stages.place(step)
            warmup = max(1, round(schedule.warmup * length))
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * group["times"] * warm_cosine(within, length, warmup=warmup)
            method.zero_grad(set_to_none=True)  # also of what a stage has frozen, which its optimizer does not know
            with recomputation(schedule.recompute):
                precision = context(schedule.precision, device, method.encoder.width)
                terms = gradients(method, batch, micro=schedule.micro, precision=precision)
            numbers = Numbers(step, terms, clip_gradients(method.parameters(), schedule.clip))
            finite.note(numbers)  # looks at the step before: nothing waits for a GPU here
            optimizer.step()
            method.on_step_end(Clock(step, schedule.steps))
            if training.average is not None:
                follow(training.average, method.encoder, schedule.average)
            rows += batch.size * distributed.world()
            elapsed = time.monotonic() - begun
            values = {}
            logs, watches = (
                step % every == 0 or step in (1, schedule.steps) for every in (schedule.log_every, watch_every)
            )
            if logs or watches or step == first + 1:
                finite.look()
            if logs:
                values = {
                    "loss": numbers.loss,
                    "lr": schedule.lr * warm_cosine(within, length, warmup=warmup),
                    "gradient_norm": numbers.norm,
                    "rows_per_second": rows / elapsed,
                    "data_wait": waited / elapsed,
                    "seconds": seconds(),
                }
                values |= {f"loss/{k}": v for k, v in numbers.terms.items()}
            if watches:
                found = watch.measure(training.kept)
                values |= found
                watch.judge(found, step, checkpoint.latest(folder), settled=within >= warmup)
                if schedule.conflict:
                    with recomputation(schedule.recompute):
                        values |= pulls(method, batch, schedule.micro)
            if values and log is not None:
                log.write(step, values)
            unread = bad()
            quarantined = f" · {unread} values in quarantine" if unread else ""
            bar.step(
                f"loss {finite.loss:.3f} · {rows / elapsed:.0f} rows/s · waiting for data {waited / elapsed:.0%}{quarantined}"
            )
            ending = distributed.any_rank(interrupted())
            if step % checkpoint_every == 0 or step == schedule.steps or ending:
                finite.look()
                save(step)
            if ending and step < schedule.steps:
                raise KeyboardInterrupt(f"interrupted after step {step} of {schedule.steps}")
    if log is not None:
        log.close()
    return training.kept


def pulls(method: Method, batch: Batch, micro: int | None) -> dict[str, float]:
    """conflict/a~b: the cosine of the gradients of two terms of the loss, on the batch or its first micro-batch; leaves no trace."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        found = conflict(method, next(iter(batch.split(micro))) if micro else batch)
    return {f"conflict/{a}~{b}": value for (a, b), value in found.items()}


def start_stage(method: Method, stage: int) -> None:
    """Tell a method that learns in stages that one begins."""
    if isinstance(method, Staged):
        method.on_stage_start(stage)


def fresh(method: Method, schedule: Schedule) -> torch.optim.AdamW:
    """An optimizer of what learns now."""
    return adamw(method, lr=schedule.lr, weight_decay=schedule.weight_decay, rates=method.lr_multipliers)


def refresh(training: Training, stage: int, see: Callable[[], Embeddings]) -> None:
    """Let the method look at all records before a stage. Processes may round what they see differently: the first decides."""
    groups = training.method.refresh(stage, see)
    training.groups.copy_(torch.as_tensor(groups) if groups is not None else torch.tensor(-1))
    if training.average is not None:  # of what may be another network from here on
        follow(training.average, training.method.encoder, 0.0)
    distributed.same_everywhere(training)


@torch.no_grad()
def embed_all(
    method: Method, records: Iterable[Batch], device: torch.device, precision: contextlib.AbstractContextManager
) -> Embeddings:
    """The encoder's features of all records to train on, float32 at least, and as `label/NAME` the labels that the records bring along.
    They are on the CPU, where there is room for all."""
    method.eval()
    parts = []
    for batch in records:
        with precision:
            seen = method.encoder.features(batch.to(device))
        columns = {
            s: Column(c.values.to("cpu", torch.promote_types(c.values.dtype, torch.float32)), c.rows.cpu())
            for s, c in seen.columns.items()
        }
        labels = {f"label/{name}": column for name, column in batch.labels.items()}
        parts.append(Embeddings(columns | labels, batch.size))
    method.train()
    return Embeddings.stack(parts)


class Stream:
    """Batches prepared ahead, from a step on; opened again where a stage draws other batches."""

    def __init__(self, batches: Callable[..., Iterable[Batch]]):
        self.batches, self.running = batches, None

    def open(self, first: int, groups: np.ndarray | None) -> None:
        self.close()
        self.running = prefetch(self.batches(first) if groups is None else self.batches(first, groups))

    def __next__(self) -> Batch:
        return next(self.running)

    def close(self) -> None:
        if self.running is not None:
            self.running.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_) -> None:
        self.close()


IMPATIENCE = 2.0
"""Seconds after which the same signal again means: now."""


@contextlib.contextmanager
def interruptions():
    """Yields a function that tells whether Ctrl-C or a termination was asked for. The first asks for a clean end after the step,
    a second one ends the process as usual."""
    asked: dict[int, float] = {}

    def note(number, frame):
        # torchrun sends both signals, one right after the other: that is one request
        if time.monotonic() - asked.get(number, time.monotonic()) > IMPATIENCE:
            raise KeyboardInterrupt
        asked.setdefault(number, time.monotonic())

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals cannot be caught
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
