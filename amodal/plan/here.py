"""What `pretrain` would take on this machine: a few of its steps, timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from amodal.train.settings import read_settings

SECONDS = 10.0
"""Of steps that are timed."""
WARM_UP, LEAST = 2, 3
"""Steps that do not count, since memory is reserved and kernels are chosen in them, and steps that
count at least, however long they take."""


@dataclass(frozen=True)
class Timing:
    """A run on this machine.

    Args:
        records: To learn from.
        batch_size: Rows of a step.
        steps: Of the whole run.
        step_seconds: Of one, in the median of those that were timed.
        start_seconds: Before the first: opening the data, building the network.
        memory: Bytes; of the process, or of the accelerator.
        device: cpu, cuda, …
    """

    records: int
    batch_size: int
    steps: int
    step_seconds: float
    start_seconds: float
    memory: int
    device: str

    @property
    def seconds(self) -> float:
        """Of the whole run, without what it writes."""
        return self.start_seconds + self.steps * self.step_seconds

    def __str__(self) -> str:
        where = f"on this machine ({self.device}, {torch.get_num_threads()} threads)"
        if self.device != "cpu":
            where = f"on this machine ({torch.cuda.get_device_name()})"
        return (
            f"{where} about {duration(self.seconds)}: {self.steps:,} steps of "
            f"{self.step_seconds:.3g} s with {self.batch_size} of {self.records:,} records each, "
            f"{self.memory / 2**30:.1f} GiB of memory"
        )


def time_steps(
    method: methods.MethodLike, data: Any, *, seconds: float = SECONDS, **settings: Any
) -> Timing:
    """Start a run in a temporary folder, and stop it after some steps.

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
        start_seconds = time.perf_counter() - started
        try:
            pretrain.fit(inputs, built, prepared)
        except _Enough:
            pass
    device = prepared.device.type
    return Timing(
        records=len(inputs.part),
        batch_size=prepared.rows,
        steps=int(prepared.recipe.steps or 0),
        step_seconds=clock.median(),
        start_seconds=start_seconds,
        memory=torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory(),
        device=device,
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
    """Takes the time of steps."""

    seconds: float
    times: list[float] = field(default_factory=list)

    def on_step(self, progress: Progress, terms: Mapping[str, Tensor]) -> None:
        for term in terms.values():
            term.item()  # waits for the device
        self.times.append(time.perf_counter())
        counted = len(self.times) - WARM_UP
        if counted >= LEAST and self.times[-1] - self.times[WARM_UP - 1] > self.seconds:
            raise _Enough("timed")

    def median(self) -> float:
        """Seconds of a step; of the first ones, if there are no more."""
        gaps = [b - a for a, b in zip(self.times, self.times[1:])]
        return median(gaps[WARM_UP - 1 :] or gaps or [0.0])
