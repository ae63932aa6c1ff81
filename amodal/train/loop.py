"""THE loop. It names no method; what a method needs of it is in `amodal.methods._contract`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amodal.core import Batch
from amodal.methods._contract import Clock, Method
from amodal.methods.shapes import follow, frozen_copy
from amodal.train import checkpoint, distributed
from amodal.train.log import Bar, Log
from amodal.train.optim import adamw, clip_gradients, warm_cosine
from amodal.train.precision import context
from amodal.train.prefetch import prefetch
from amodal.train.step import gradients, total
from amodal.train.watch import Stopped, Watch, told


@dataclass(frozen=True)
class Schedule:
    """steps: optimizer steps. micro: rows computed at once, None for the whole batch; the update is the same. warmup: share of
    the steps. clip: largest gradient norm. average: momentum of an average of the encoder's weights that is what is kept, 0 for
    none. *_every: steps between entries, measurements, checkpoints; 0 lets the number of steps decide."""

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


class Training(nn.Module):
    """All that a checkpoint holds: the method, and the average of its encoder's weights if one is kept."""

    def __init__(self, method: Method, average: float):
        super().__init__()
        self.method = method
        self.average = frozen_copy(method.encoder) if average else None

    @property
    def kept(self) -> nn.Module:
        """The encoder that survives."""
        return self.average if self.average is not None else self.method.encoder


def train(
    method: Method,
    batches: Callable[[int], Iterable[Batch]],
    schedule: Schedule,
    run: Path,
    *,
    watch: Watch,
    resume: bool = False,
    device: torch.device | None = None,
    bad: Callable[[], int] = lambda: 0,
    tensorboard: bool = True,
    progress: bool = True,
) -> nn.Module:
    """Train, and return the encoder that is to be kept.

    batches: first step -> this rank's share of the batches from that step on. bad: how many values were put in quarantine so far.
    Raises Stopped on NaN or collapse; KeyboardInterrupt after a checkpoint when interrupted.
    """
    device = device or torch.device("cpu")
    training = Training(method, schedule.average).to(device).train()
    distributed.same_everywhere(training)
    if schedule.shard and distributed.world() > 1:
        distributed.shard(training)
    optimizer = adamw(method, lr=schedule.lr, weight_decay=schedule.weight_decay)
    folder, first, spent = run / "checkpoints", 0, 0.0
    if resume and (found := checkpoint.latest(folder)):
        state = checkpoint.load(found, training, optimizer)
        first, spent = state["step"], state["seconds"]
        torch.set_rng_state(torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8))

    def save(step: int) -> Path:
        state = {"rng": bytes(torch.get_rng_state().tolist()).hex(), "steps": schedule.steps, "seconds": seconds()}
        return checkpoint.save(folder, step, training, optimizer, state)

    def seconds() -> float:
        return round(spent + time.monotonic() - begun, 1)

    leads = distributed.rank() == 0
    log = Log(run, resume_at=first, tensorboard=tensorboard) if leads else None
    warmup = max(1, round(schedule.warmup * schedule.steps))
    watch_every = schedule.watch_every or max(schedule.steps // 20, 10)
    checkpoint_every = schedule.checkpoint_every or max(schedule.steps // 5, 50)
    bar = Bar("pretrain", schedule.steps, start=first, shown=progress and leads)
    waited, begun, rows = 0.0, time.monotonic(), 0
    with bar, interruptions() as interrupted, contextlib.closing(prefetch(batches(first))) as stream:
        for step in range(first + 1, schedule.steps + 1):
            asked = time.monotonic()
            batch = next(stream).to(device)
            waited += time.monotonic() - asked
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * warm_cosine(step - 1, schedule.steps, warmup=warmup)
            optimizer.zero_grad(set_to_none=True)
            terms = gradients(
                method, batch, micro=schedule.micro, precision=context(schedule.precision, device, method.encoder.width)
            )
            norm = clip_gradients(method.parameters(), schedule.clip)
            loss = float(total(terms))
            if not (loss == loss and abs(loss) != float("inf") and torch.isfinite(norm)):
                raise Stopped(
                    f"stopped at step {step}: the loss is {loss} and the gradient norm {float(norm):.3g} (terms: {describe(terms)}). "
                    f"A lower learning rate (--lr, now {schedule.lr:g}) or --precision float32 may help; "
                    f"{told(checkpoint.latest(folder))}."
                )
            optimizer.step()
            method.tick(Clock(step, schedule.steps))
            if training.average is not None:
                follow(training.average, method.encoder, schedule.average)
            rows += batch.size * distributed.world()
            elapsed = time.monotonic() - begun
            values = {}
            if step % schedule.log_every == 0 or step in (1, schedule.steps):
                values = {
                    "loss": loss,
                    "lr": optimizer.param_groups[0]["lr"],
                    "gradient_norm": float(norm),
                    "rows_per_second": rows / elapsed,
                    "data_wait": waited / elapsed,
                    "seconds": seconds(),
                }
                values |= {f"loss/{k}": float(v) for k, v in terms.items()}
            if step % watch_every == 0 or step in (1, schedule.steps):
                found = watch.measure(training.kept)
                values |= found
                watch.judge(found, step, checkpoint.latest(folder), settled=step > warmup)
            if values and log is not None:
                log.write(step, values)
            unread = bad()
            quarantined = f" · {unread} values in quarantine" if unread else ""
            bar.step(
                f"loss {loss:.3f} · {rows / elapsed:.0f} rows/s · waiting for data {waited / elapsed:.0%}{quarantined}"
            )
            ending = distributed.any_rank(interrupted())
            if step % checkpoint_every == 0 or step == schedule.steps or ending:
                save(step)
            if ending and step < schedule.steps:
                raise KeyboardInterrupt(f"interrupted after step {step} of {schedule.steps}")
    if log is not None:
        log.close()
    return training.kept


IMPATIENCE = 2.0
"""Seconds after which the same signal again means: now."""


def describe(terms: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{k} {float(v):.3g}" for k, v in terms.items())


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
