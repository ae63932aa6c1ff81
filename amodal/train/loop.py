"""THE loop. It names no method.

What a method needs of it is in `amodal.methods.contract` and `amodal.core.protocols`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from amodal.core import AmodalError, Batch
from amodal.core.clock import Clock
from amodal.core.matmul import fast_products
from amodal.core.protocols import (
    Collects,
    CombinesGradients,
    FitsStatistics,
    Optimizers,
    Refreshes,
    Staged,
)
from amodal.core.recipe import Recipe
from amodal.data.loader import workers_watched
from amodal.diagnose.conflict import conflict
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import ema_update
from amodal.nn.gradient_checkpointing import recomputation
from amodal.progress import Bar
from amodal.train import checkpoint, distributed
from amodal.train.callbacks import Callback, Callbacks, Progress
from amodal.train.collapse_monitor import Watch, told
from amodal.train.log import Log
from amodal.train.loggers import Logger
from amodal.train.loss_monitor import Finite, Numbers
from amodal.train.optim import FSDP_OPTIMIZERS, clip_gradients
from amodal.train.players import Players
from amodal.train.precision import context
from amodal.train.prefetch import Stream
from amodal.train.schedule import Plateau, Stages, factor, weight_decay
from amodal.train.signals import interruptions
from amodal.train.state import Training, embed_all, refresh
from amodal.train.step import gradients

Choice = Callable[[Method, Batch, int], Batch]
"""(method, batch, step) -> the rows of it to learn from."""


@dataclass(frozen=True)
class Watching:
    """What looks on, and how often.

    save_every, log_every, measure_every: steps between checkpoints, entries of the log and
    measurements; 0 lets the number of steps decide. conflict: measure the terms of the loss against
    each other. config: of the run, for loggers.
    """

    watch: Watch
    log_every: int = 10
    measure_every: int = 0
    save_every: int = 0
    conflict: bool = False
    callbacks: Sequence[Callback] = ()
    loggers: Sequence[str | Logger] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    bad: Callable[[], int] = lambda: 0
    progress: bool = True


def train(
    method: Method,
    batches: Callable[..., Iterable[Batch]],
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    records: Iterable[Batch] | None = None,
    choose: Choice | None = None,
    device: torch.device | None = None,
    tensorboard: bool = True,
    **watching,
) -> nn.Module:
    """Train by a recipe whose steps and lr are set.

    Args:
        batches: first step -> this rank's share of the batches from that step on; called with a
            second argument, the group of each record, where the method has asked for batches of one
            group.
        records: all records to train on in order and as they are, for methods that fit statistics
            or refresh.
        choose: what of each batch is learned from.
        tensorboard: whether to write its files, beside what other loggers do.
        watching: see `Watching`; `watch` must be there. bad: how many values were put in quarantine
            so far.

    Returns:
        The encoder that is to be saved. Raises Stopped on NaN or collapse; KeyboardInterrupt after
        a checkpoint when interrupted.
    """
    loggers = (*(("tensorboard",) if tensorboard else ()), *watching.pop("loggers", ()))
    looking = Watching(loggers=loggers, **watching)
    with fast_products():
        loop = Loop(method, recipe, run, looking, records, choose, device or torch.device("cpu"))
        loop.begin(resume)
        return loop.run_steps(batches)


class Loop:
    """One training. Its methods follow a step from its batch to its checkpoint."""

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        run: Path,
        looking: Watching,
        records: Iterable[Batch] | None,
        choose: Choice | None,
        device: torch.device,
    ):
        if recipe.steps is None or recipe.lr is None:
            raise AmodalError("a recipe that is trained by must have steps and lr")
        self.method, self.recipe, self.run, self.looking = method, recipe, run, looking
        self.records, self.choose, self.device = records, choose, device
        self.steps, self.lr = recipe.steps, recipe.lr
        self.stages = Stages.of(stages_of(method, recipe), self.steps)
        self.plateau = Plateau(recipe)
        self.callbacks = Callbacks(looking.callbacks)
        self.refreshes, self.fits = (isinstance(method, p) for p in (Refreshes, FitsStatistics))
        if (self.refreshes or self.fits) and records is None:
            raise AmodalError(
                "this method looks at all records, before it begins or between stages, and needs them as `records`"
            )
        if looking.conflict and distributed.world() > 1:
            raise AmodalError(
                "--conflict compares gradients in one process; leave it out under torchrun"
            )
        count = len(records.indices) if self.refreshes else 0
        self.training = Training(method, recipe.ema, count).to(device).train()
        distributed.same_everywhere(self.training)
        if recipe.fsdp and distributed.world() > 1:
            self._shard()
        self.measure_every = looking.measure_every or max(self.steps // 20, 10)
        self.save_every = looking.save_every or max(self.steps // 5, 50)
        self.first, self.spent, self.begun = 0, 0.0, time.monotonic()

    def _shard(self) -> None:
        if isinstance(self.method, (CombinesGradients, Optimizers)):
            raise AmodalError(
                "this method combines whole gradients, which sharded weights do not have; leave --fsdp out"
            )
        if self.recipe.optimizer not in FSDP_OPTIMIZERS:
            raise AmodalError(
                f"{self.recipe.optimizer} needs whole matrices, which --fsdp shards; take {', '.join(FSDP_OPTIMIZERS)}"
            )
        distributed.shard(self.training)

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def precision(self) -> contextlib.AbstractContextManager:
        return context(self.recipe.precision, self.device, self.method.encoder.width)

    def begin(self, resume: bool) -> None:
        """Before the first step: statistics, the first stage, its optimizer.

        Or all of a checkpoint.
        """
        last = checkpoint.latest(self.checkpoints) if resume else None
        self.stage = self.stages.at(checkpoint.step_of(last)) if last else 0
        if self.fits and not last:
            self.method.fit_statistics(self.records)
            distributed.same_everywhere(self.training)
        if self.refreshes and self.method.refresh_first and not last:
            self._refresh()
        start_stage(self.method, self.stage)
        self.players = Players(self.method, self.recipe)
        if last:
            state = checkpoint.load(last, self.training, self.players.optimizers)
            self.first, self.spent = state["step"], state["seconds"]
            self.plateau.restore(state.get("plateau", {}))
            torch.set_rng_state(torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8))

    def run_steps(self, batches: Callable[..., Iterable[Batch]]) -> nn.Module:
        """All steps that are left. Returns the encoder that survives."""
        leads, looking = distributed.rank() == 0, self.looking
        log = None
        if leads:
            log = Log(
                self.run, resume_at=self.first, loggers=looking.loggers, config=looking.config
            )
        self.begun, self.waited, self.rows = time.monotonic(), 0.0, 0
        self.finite = Finite(self._stopped)
        bar = Bar("pretrain", self.steps, start=self.first, shown=looking.progress and leads)
        with (
            bar,
            workers_watched(),
            interruptions() as interrupted,
            Stream(batches) as stream,
            self.finite,
        ):
            stream.open(self.first, self.training.grouped)
            for step in range(self.first + 1, self.steps + 1):
                if self.stages.at(step) != self.stage:
                    self._next_stage(step, stream)
                batch = self._batch(step, stream)
                numbers = self._update(step, batch)
                values = self._measured(step, batch, numbers)
                if values and log is not None:
                    log.write(step, values)
                bar.step(self._line())
                ending = distributed.any_rank(interrupted())
                if step % self.save_every == 0 or step == self.steps or ending:
                    self._save(step)
                if ending and step < self.steps:
                    raise KeyboardInterrupt(f"interrupted after step {step} of {self.steps}")
        if log is not None:
            log.close()
        return self.training.encoder

    def _next_stage(self, step: int, stream: Stream) -> None:
        self.finite.look()
        self.stage = self.stages.at(step)
        if self.refreshes:
            self._refresh()
        start_stage(self.method, self.stage)
        self.players = Players(self.method, self.recipe)
        stream.open(step - 1, self.training.grouped)

    def _refresh(self) -> None:
        precision = self.precision()
        embed = lambda: embed_all(self.method, self.records, self.device, precision)  # noqa: E731
        refresh(self.training, self.stage, embed)

    def _batch(self, step: int, stream: Stream) -> Batch:
        asked = time.monotonic()
        batch = next(stream).to(self.device)
        self.waited += time.monotonic() - asked
        if isinstance(self.method, Collects):
            with torch.no_grad():
                batch = self.method.collect(batch)
        return batch if self.choose is None else self.choose(self.method, batch, step)

    def _update(self, step: int, batch: Batch) -> Numbers:
        """One optimizer step, and what follows it."""
        method, recipe = self.method, self.recipe
        self.players.set(self.lr, self._factor(step), weight_decay(recipe, step, self.steps))
        method.zero_grad(
            set_to_none=True
        )  # also of what a stage has frozen, which its optimizer does not know
        with recomputation(recipe.gradient_checkpointing):
            terms = gradients(
                method,
                batch,
                micro=recipe.micro_batch_size,
                precision=self.precision(),
                drop_path=recipe.drop_path,
                players=self.players if isinstance(method, Optimizers) else None,
            )
        numbers = Numbers(
            step, terms, clip_gradients(method.parameters(), recipe.clip or float("inf"))
        )
        self.finite.note(numbers)  # looks at the step before: nothing waits for a GPU here
        self.players.step()
        method.on_step_end(Clock(step, self.steps))
        if self.training.average is not None:
            ema_update(self.training.average, method.encoder, recipe.ema)
        self.plateau.note(numbers)
        self.rows += batch.size * distributed.world()
        self.callbacks.on_step(self._progress(step), terms)
        return numbers

    def _factor(self, step: int) -> float:
        return factor(self.recipe, *self.stages.place(step)) * self.plateau.factor

    def _measured(self, step: int, batch: Batch, numbers: Numbers) -> dict[str, float]:
        """The values of an entry of the log; none between entries."""
        ends = step in (1, self.steps)
        logs, watches = (
            step % every == 0 or ends for every in (self.looking.log_every, self.measure_every)
        )
        if logs or watches or step == self.first + 1:
            self.finite.look()
        values: dict[str, float] = {}
        if logs:
            lr = self.lr * self._factor(step)
            self.plateau.entry()
            values = self._entry(numbers, lr)
        if watches:
            measured = self.looking.watch.measure(self.training.encoder)
            values |= measured
            within, length = self.stages.place(step)
            settled = within >= self.recipe.warmup_of(length)
            self.looking.watch.judge(
                measured, step, checkpoint.latest(self.checkpoints), settled=settled
            )
            if self.looking.conflict:
                with recomputation(self.recipe.gradient_checkpointing):
                    values |= pulls(self.method, batch, self.recipe.micro_batch_size)
        return self.callbacks.on_log(self._progress(step), values) if values else {}

    def _entry(self, numbers: Numbers, lr: float) -> dict[str, float]:
        elapsed = time.monotonic() - self.begun
        values = {
            "loss": numbers.loss,
            "lr": lr,
            "gradient_norm": numbers.norm,
            "rows_per_second": self.rows / elapsed,
            "data_wait": self.waited / elapsed,
            "seconds": self._seconds(),
        }
        return values | {f"loss/{k}": v for k, v in numbers.terms.items()}

    def _line(self) -> str:
        elapsed, unread = time.monotonic() - self.begun, self.looking.bad()
        quarantined = f" · {unread} values in quarantine" if unread else ""
        return (
            f"loss {self.finite.loss:.3f} · {self.rows / elapsed:.0f} rows/s · "
            f"waiting for data {self.waited / elapsed:.0%}{quarantined}"
        )

    def _save(self, step: int) -> None:
        self.finite.look()
        state = {
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
            "steps": self.steps,
            "seconds": self._seconds(),
            **({"plateau": self.plateau.state()} if self.plateau.active else {}),
        }
        path = checkpoint.save(
            self.checkpoints, step, self.training, self.players.optimizers, state
        )
        self.callbacks.on_checkpoint(self._progress(step), path)

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps, self.method, self.training.encoder, self.run)

    def _seconds(self) -> float:
        return round(self.spent + time.monotonic() - self.begun, 1)

    def _stopped(self, numbers: Numbers) -> str:
        terms = ", ".join(f"{k} {v:.3g}" for k, v in numbers.terms.items())
        return (
            f"stopped at step {numbers.step}: the loss is {numbers.loss} and the gradient norm "
            f"{numbers.norm:.3g} "
            f"(terms: {terms}). A lower learning rate (--lr, now {self.lr:g}) or --precision "
            "float32 may help; "
            f"{told(checkpoint.latest(self.checkpoints))}."
        )


def stages_of(method: Method, recipe: Recipe) -> Sequence[float]:
    """Where stages end, as shares of the steps.

    Raises AmodalError for stages that the method does not have.
    """
    shares = method.stages if isinstance(method, Staged) else (1.0,)
    if recipe.stages is None:
        return shares
    if len(recipe.stages) != len(shares):
        raise AmodalError(
            f"stages has {len(recipe.stages)} shares, and this method learns in {len(shares)} stages"
        )
    return recipe.stages


def pulls(method: Method, batch: Batch, micro: int | None) -> dict[str, float]:
    """conflict/a~b.

    The cosine of the gradients of two terms of the loss, on the batch or its first micro-batch;
    leaves no trace.
    """
    before = [
        (buffer, buffer.clone()) for buffer in method.buffers()
    ]  # batch statistics would move once more
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        found = conflict(method, next(iter(batch.split(micro))) if micro else batch)
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    return {f"conflict/{a}~{b}": value for (a, b), value in found.items()}


def start_stage(method: Method, stage: int) -> None:
    """Tell a method that learns in stages that one begins."""
    if isinstance(method, Staged):
        method.on_stage_start(stage)
