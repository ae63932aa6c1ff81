"""What `pretrain` would take on this machine: a few of its steps, timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from amodal import methods
from amodal.core import AmodalError
from amodal.core.process_memory import peak_memory
from amodal.train import pretrain
from amodal.train.callbacks import Progress
from amodal.train.schedule import Stages, stages_of
from amodal.train.settings import read_settings

SECONDS = 10.0
"""Of steps that are timed."""
WARM_UP, LEAST = 2, 3
"""Steps that do not count, since memory is reserved and kernels are chosen in them, and steps that
count at least, however long they take."""
STAGE_STEPS = WARM_UP + LEAST + 3
"""Of each stage, where a method learns in stages."""


@dataclass(frozen=True)
class Timing:
    """A run on this machine.

    Args:
        records: To learn from.
        batch_size: Rows of a step.
        steps: Of the whole run.
        step_seconds: Of one, in the median of those that were timed; of a method that learns in
            stages the mean over its steps.
        start_seconds: Without steps: opening the data, building the network, and what is fitted
            or computed for all records at first and between stages.
        memory: Bytes; of the process, or of the accelerator.
        device: cpu, cuda, …
        stages: (steps, seconds of one) of each stage; () for a method that has one.
    """

    records: int
    batch_size: int
    steps: int
    step_seconds: float
    start_seconds: float
    memory: int
    device: str
    stages: tuple[tuple[int, float], ...] = ()

    @property
    def seconds(self) -> float:
        """Of the whole run, without what it writes."""
        return self.start_seconds + self.steps * self.step_seconds

    def __str__(self) -> str:
        where = f"on this machine ({self.device}, {torch.get_num_threads()} threads)"
        if self.device != "cpu":
            where = f"on this machine ({torch.cuda.get_device_name()})"
        parts = self.stages or ((self.steps, self.step_seconds),)
        steps = ", ".join(f"{count:,} steps of {each:.3g} s" for count, each in parts)
        if self.stages:
            steps += f" in {len(parts)} stages,"
        return (
            f"{where} about {duration(self.seconds)}: {steps} with {self.batch_size} of "
            f"{self.records:,} records each, {self.memory / 2**30:.1f} GiB of memory"
        )


def time_steps(
    method: methods.MethodLike, data: Any, *, seconds: float = SECONDS, **settings: Any
) -> Timing:
    """Start a run in a temporary folder, and stop it after some steps.

    A method that learns in stages takes some steps of each.

    Args:
        method: See `amodal.pretrain`.
        data: See `amodal.pretrain`.
        seconds: Of steps that are timed; at least `LEAST` are.
        settings: See `amodal.pretrain`.

    Raises:
        AmodalError: Where `pretrain` would: for a mistake in the arguments or the data.
    """
    clock = _Clock(seconds)
    quiet = {"callbacks": [clock], "progress": False, "logger": None}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        read = read_settings(method, settings | quiet)
        inputs = pretrain.open_inputs(method, data, read, Path(folder) / "run")
        built = pretrain.build(inputs)
        prepared = pretrain.prepare(inputs, built, Path(folder) / "run")
        steps = int(prepared.recipe.steps or 0)
        ends = Stages.of(stages_of(built.method, prepared.recipe), steps).ends
        if len(ends) > 1:
            clock.divide(len(ends))
            shares = tuple((i + 1) / len(ends) for i in range(len(ends)))
            short = replace(prepared.recipe, steps=STAGE_STEPS * len(ends), stages=shares)
            prepared = replace(prepared, recipe=short)
        try:
            pretrain.fit(inputs, built, prepared)
        except _Enough:
            pass
    device = prepared.device.type
    medians = clock.medians()
    counts = [b - a for a, b in zip((0, *ends), ends)]
    return Timing(
        records=len(inputs.part),
        batch_size=prepared.rows,
        steps=steps,
        step_seconds=sum(n * each for n, each in zip(counts, medians)) / max(steps, 1),
        start_seconds=clock.outside(started, medians),
        memory=torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory(),
        device=device,
        stages=tuple(zip(counts, medians)) if len(ends) > 1 else (),
    )


def duration(seconds: float) -> str:
    """Seconds in the unit in which people think of them."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


class _Enough(AmodalError):
    """Ends a run that has been timed."""


@dataclass
class _Clock:
    """Takes the time of steps.

    Args:
        seconds: After which steps of a method with one stage are enough.
    """

    seconds: float
    times: list[float] = field(default_factory=list)
    stages: int = 1

    def divide(self, stages: int) -> None:
        """Expect a run of so many stages, of `STAGE_STEPS` each."""
        self.stages = stages

    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        for term in terms.values():
            term.item()  # waits for the device
        self.times.append(time.perf_counter())
        if self.stages > 1:
            enough = len(self.times) == STAGE_STEPS * self.stages - 1
        else:
            counted = len(self.times) - WARM_UP
            enough = counted >= LEAST and self.times[-1] - self.times[WARM_UP - 1] > self.seconds
        if enough:
            raise _Enough("timed")

    def medians(self) -> list[float]:
        """Seconds of a step of each stage; of its first ones, if there are no more."""
        return [_median(times) for times in self._by_stage()]

    def outside(self, started: float, medians: Sequence[float]) -> float:
        """Seconds from the start to the first step of each stage, without steps."""
        waits = 0.0
        for times, each in zip(self._by_stage(), medians):
            if times:
                waits += max(times[0] - started - each, 0.0)
                started = times[-1]
        return waits

    def _by_stage(self) -> list[list[float]]:
        size = STAGE_STEPS if self.stages > 1 else max(len(self.times), 1)
        return [self.times[i * size : (i + 1) * size] for i in range(self.stages)]


def _median(times: Sequence[float]) -> float:
    gaps = [b - a for a, b in zip(times, times[1:])]
    return median(gaps[WARM_UP - 1 :] or gaps or [0.0])
