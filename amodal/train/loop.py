"""The training loop. It names no method.

`amodal.methods.contract` and `amodal.core.protocols` define what a method may ask of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
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
    KeepsOptimizer,
    Optimizers,
    Refreshes,
)
from amodal.core.recipe import Recipe
from amodal.data.loader import worker_errors
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import ema_update
from amodal.nn.backbones.module_output import NanFlags
from amodal.nn.gradient_checkpointing import recomputation
from amodal.progress import Bar
from amodal.train import checkpoint, distributed
from amodal.train.callbacks import Callback, Callbacks, Progress
from amodal.train.collapse_monitor import CollapseMonitor, TrainingStopped, checkpoint_note
from amodal.train.extend import LENGTH_READ
from amodal.train.log import MetricsLog
from amodal.train.loggers import Logger
from amodal.train.loss_monitor import LossMonitor, StepLosses
from amodal.train.monitoring import Monitoring, gradient_conflicts
from amodal.train.optim import FSDP_OPTIMIZERS, clip_gradients
from amodal.train.players import Players
from amodal.train.precision import context
from amodal.train.prefetch import Batches, Stream
from amodal.train.schedule import (
    Plateau,
    Stages,
    branch_of,
    factor,
    stages_of,
    start_stage,
    weight_decay,
)
from amodal.train.signals import interruptions
from amodal.train.state import Records, TrainingState, embed_all, refresh
from amodal.train.step import gradients

__all__ = ["Loop", "Monitoring", "TrainingStopped", "embed_all", "start_stage", "train"]

Choice = Callable[[Method, Batch, int], Batch]
"""(method, batch, step) -> the rows of the batch to learn from."""


def train(
    method: Method,
    batches: Batches,
    recipe: Recipe,
    run: Path,
    *,
    monitor: CollapseMonitor,
    resume: bool = False,
    records: Records | None = None,
    choose: Choice | None = None,
    device: torch.device | None = None,
    tensorboard: bool = True,
    log_every: int = 10,
    measure_every: int = 0,
    save_every: int = 0,
    conflict: bool = False,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str | Logger] = (),
    config: Mapping[str, object] | None = None,
    quarantined: Callable[[], int] = lambda: 0,
    progress: bool = True,
) -> nn.Module:
    """Train by a recipe whose steps and lr are set.

    Args:
        batches: First step -> this rank's share of the batches from that step on. A method that
            groups records also passes the group of each record as a second argument.
        run: The run folder.
        resume: Continue from the latest checkpoint.
        records: All training records, in order and not augmented, for methods that fit statistics
            or refresh.
        choose: Selects the rows of each batch to learn from.
        tensorboard: Write TensorBoard files beside what other loggers write.
        monitor, log_every, measure_every, save_every, conflict, callbacks, loggers, config,
        quarantined, progress: See `Monitoring`.

    Returns:
        The encoder to save: the last one, or the average of its weights.

    Raises:
        TrainingStopped: If the loss is not finite, or the features have collapsed.
        KeyboardInterrupt: After a checkpoint, if the run was interrupted.
    """
    monitoring = Monitoring(
        monitor=monitor,
        log_every=log_every,
        measure_every=measure_every,
        save_every=save_every,
        conflict=conflict,
        callbacks=callbacks,
        loggers=(*(("tensorboard",) if tensorboard else ()), *loggers),
        config=config or {},
        quarantined=quarantined,
        progress=progress,
    )
    with fast_products():
        loop = Loop(
            method,
            recipe,
            run,
            monitoring,
            records=records,
            choose=choose,
            device=device or torch.device("cpu"),
        )
        loop.start(resume)
        return loop.run_steps(batches)


class Loop:
    """One training run. Its methods follow a step from its batch to its checkpoint."""

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        run: Path,
        monitoring: Monitoring,
        *,
        records: Records | None,
        choose: Choice | None,
        device: torch.device,
    ):
        if recipe.steps is None or recipe.lr is None:
            raise AmodalError("a recipe needs steps and lr before training can start")
        self.method, self.recipe, self.run, self.monitoring = method, recipe, run, monitoring
        self.records, self.choose, self.device = records, choose, device
        self.checkpoints = run / "checkpoints"
        self.steps, self.lr = recipe.steps, recipe.lr
        self.stages = Stages.of(stages_of(method, recipe), self.steps)
        self.plateau, self.length_read = Plateau(recipe), False
        self.branch = branch_of(recipe, self.steps)  # where a longer run goes on from
        self.callbacks = Callbacks(monitoring.callbacks)
        if isinstance(method, Refreshes | FitsStatistics) and records is None:
            raise AmodalError(
                "this method needs all records, before training or between stages; "
                "pass them as `records`"
            )
        if monitoring.conflict and distributed.world() > 1:
            raise AmodalError(
                "--conflict compares gradients in one process; leave it out under torchrun"
            )
        refreshes = records is not None and isinstance(method, Refreshes)
        groups = len(records.indices) if records is not None and refreshes else 0
        self.training = TrainingState(method, recipe.ema, groups).to(device).train()
        distributed.broadcast_module(self.training)
        if recipe.fsdp and distributed.world() > 1:
            self._shard()
        self.measure_every = monitoring.measure_every or max(self.steps // 20, 10)
        self.save_every = monitoring.save_every or max(self.steps // 5, 50)
        # the step a run continues from, and the seconds it had trained by then
        self.first, self.earlier_seconds, self.started = 0, 0.0, time.monotonic()

    def _shard(self) -> None:
        if isinstance(self.method, CombinesGradients | Optimizers):
            raise AmodalError(
                "this method combines whole gradients, which sharded weights do not have; "
                "leave --fsdp out"
            )
        if self.recipe.optimizer not in FSDP_OPTIMIZERS:
            raise AmodalError(
                f"{self.recipe.optimizer} needs whole matrices, which --fsdp shards; "
                f"take {', '.join(FSDP_OPTIMIZERS)}"
            )
        distributed.shard(self.training)

    def precision(self) -> contextlib.AbstractContextManager[object]:
        return context(self.recipe.precision, self.device, self.method.encoder.width)

    def start(self, resume: bool) -> None:
        """Prepare the first step: fit statistics, start the first stage, make its optimizer.

        A resumed run reads all of this from its latest checkpoint.
        """
        last = checkpoint.latest(self.checkpoints) if resume else None
        self.stage = self.stages.stage_of(checkpoint.step_of(last)) if last else 0
        method = self.method
        if isinstance(method, FitsStatistics) and self.records is not None and not last:
            # ranks may round differently, so the first one's statistics hold for all, as after a
            # refresh
            method.fit_statistics(self.records)
            if self.training.average is not None:  # of weights that may have been set just now
                ema_update(self.training.average, method.encoder, 0.0)
            distributed.broadcast_module(self.training)
        if isinstance(method, Refreshes) and method.refresh_first and not last:
            self._refresh()
        start_stage(method, self.stage)
        self.players = Players(self.method, self.recipe)
        if last:
            state = checkpoint.load(last, self.training, self.players.optimizers)
            self.first, self.earlier_seconds = state["step"], state["seconds"]
            self.plateau.restore(state.get("plateau", {}))
            self.length_read = bool(state.get(LENGTH_READ))
            # last, since what was built before has drawn random numbers
            torch.set_rng_state(torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8))

    def run_steps(self, batches: Batches) -> nn.Module:
        """Take all remaining steps. Returns the encoder to save."""
        is_main, monitoring = distributed.rank() == 0, self.monitoring
        log = None
        if is_main:
            log = MetricsLog(
                self.run,
                resume_at=self.first,
                loggers=monitoring.loggers,
                config=monitoring.config,
            )
        self.started, self.data_seconds, self.rows = time.monotonic(), 0.0, 0
        self.loss_monitor, self.nan_flags = LossMonitor(self._divergence), NanFlags(self.method)
        bar = Bar("pretrain", self.steps, start=self.first, shown=monitoring.progress and is_main)
        with (
            bar,
            worker_errors(),
            interruptions() as interrupted,
            Stream(batches) as stream,
            self.loss_monitor,
        ):
            stream.open(self.first, self.training.record_groups)
            for step in range(self.first + 1, self.steps + 1):
                if self.stages.stage_of(step) != self.stage:
                    self._next_stage(step, stream)
                batch = self._batch(step, stream)
                step_losses = self._update(step, batch)
                values = self._measure(step, batch, step_losses)
                if values and log is not None:
                    log.write(step, values)
                bar.step(self._status())
                # a signal reaches ranks at different times, and all must end after the same step
                ending = distributed.any_rank(interrupted())
                if step % self.save_every == 0 or step in (self.branch, self.steps) or ending:
                    self._save(step)
                if ending and step < self.steps:
                    raise KeyboardInterrupt(f"interrupted after step {step} of {self.steps}")
        if log is not None:
            log.close()
        return self.training.encoder

    def _next_stage(self, step: int, stream: Stream) -> None:
        # a refresh must not read weights of a step that was not finite
        self.loss_monitor.check()
        self.stage = self.stages.stage_of(step)
        if isinstance(self.method, Refreshes):
            self._refresh()
        start_stage(self.method, self.stage)
        if not (isinstance(self.method, KeepsOptimizer) and self.method.keeps_optimizer):
            # a stage may train other parameters
            self.players = Players(self.method, self.recipe)
        stream.open(step - 1, self.training.record_groups)

    def _refresh(self) -> None:
        records, precision = self.records, self.precision()
        assert records is not None, "checked when the loop was made"
        refresh(
            self.training,
            self.stage,
            lambda: embed_all(self.method, records, self.device, precision),
        )

    def _batch(self, step: int, stream: Stream) -> Batch:
        asked = time.monotonic()
        batch = next(stream).to(self.device)
        self.data_seconds += time.monotonic() - asked
        if isinstance(self.method, Collects):
            with torch.no_grad():
                batch = self.method.collect(batch)
        return batch if self.choose is None else self.choose(self.method, batch, step)

    def _update(self, step: int, batch: Batch) -> StepLosses:
        """One optimizer step, and the updates that follow it."""
        method, recipe = self.method, self.recipe
        self.players.set(self.lr, self._lr_factor(step), weight_decay(recipe, step, self.steps))
        # the whole method: the optimizer of this stage does not know parameters that are frozen
        method.zero_grad(set_to_none=True)
        with recomputation(recipe.gradient_checkpointing):
            terms = gradients(
                method,
                batch,
                micro=recipe.micro_batch_size,
                precision=self.precision(),
                drop_path=recipe.drop_path,
                players=self.players if isinstance(method, Optimizers) else None,
            )
        # also without clipping: the norm is logged, and shows gradients that are not finite
        norm = clip_gradients(method.parameters(), recipe.clip or float("inf"))
        step_losses = StepLosses(step, terms, norm, self.nan_flags.take())
        self.loss_monitor.update(step_losses)  # of the step before: nothing waits for a GPU here
        self.players.step()
        # after the optimizer: teachers and the average follow the new weights
        clock = Clock(step, self.steps)
        method.on_step_end(clock)
        self.length_read |= clock.length_read
        if self.training.average is not None:
            ema_update(self.training.average, method.encoder, recipe.ema)
        self.plateau.update(step_losses)
        self.rows += batch.size * distributed.world()
        self.callbacks.on_step(self._progress(step), terms)
        return step_losses

    def _lr_factor(self, step: int) -> float:
        return factor(self.recipe, *self.stages.position(step)) * self.plateau.factor

    def _measure(self, step: int, batch: Batch, step_losses: StepLosses) -> dict[str, float]:
        """The values of an entry of the log; none between entries."""
        at_end = step in (1, self.steps)
        logs = at_end or step % self.monitoring.log_every == 0
        measures = at_end or step % self.measure_every == 0
        if logs or measures or step == self.first + 1:
            self.loss_monitor.check()
        values: dict[str, float] = {}
        if logs:
            lr = self.lr * self._lr_factor(step)
            self.plateau.end_interval()
            values = self._entry(step_losses, lr)
        if measures:
            measured = self.monitoring.monitor.measure(self.training.encoder)
            values |= measured
            stage_step, stage_steps = self.stages.position(step)
            self.monitoring.monitor.check(
                measured,
                step,
                checkpoint.latest(self.checkpoints),
                settled=stage_step >= self.recipe.warmup_of(stage_steps),
            )
            if self.monitoring.conflict:
                with recomputation(self.recipe.gradient_checkpointing):
                    values |= gradient_conflicts(self.method, batch, self.recipe.micro_batch_size)
        return self.callbacks.on_log(self._progress(step), values) if values else {}

    def _entry(self, step_losses: StepLosses, lr: float) -> dict[str, float]:
        elapsed = time.monotonic() - self.started
        values = {
            "loss": step_losses.loss,
            "lr": lr,
            "gradient_norm": step_losses.norm,
            "rows_per_second": self.rows / elapsed,
            "data_wait": self.data_seconds / elapsed,
            "seconds": self._seconds(),
        }
        return values | {f"loss/{k}": v for k, v in step_losses.terms.items()}

    def _status(self) -> str:
        elapsed = time.monotonic() - self.started
        unreadable = self.monitoring.quarantined()
        quarantine = f" · {unreadable} values in quarantine" if unreadable else ""
        return (
            f"loss {self.loss_monitor.loss:.3f} · {self.rows / elapsed:.0f} rows/s · "
            f"waiting for data {self.data_seconds / elapsed:.0%}{quarantine}"
        )

    def _save(self, step: int) -> None:
        self.loss_monitor.check()
        state = {
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
            "steps": self.steps,
            "seconds": self._seconds(),
            **({"plateau": self.plateau.state()} if self.plateau.active else {}),
            **({LENGTH_READ: True} if self.length_read else {}),
        }
        path = checkpoint.save(
            self.checkpoints, step, self.training, self.players.optimizers, state, self.branch
        )
        self.callbacks.on_checkpoint(self._progress(step), path)

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps, self.method, self.training.encoder, self.run)

    def _seconds(self) -> float:
        return round(self.earlier_seconds + time.monotonic() - self.started, 1)

    def _divergence(self, step_losses: StepLosses) -> str:
        note = checkpoint_note(checkpoint.latest(self.checkpoints))
        return f"stopped at step {step_losses.step}: {step_losses.cause(self.lr)}; {note}."
