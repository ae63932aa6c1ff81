"""What observes a run, and the gradient conflicts that it may log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from amodal.core import Batch
from amodal.diagnose.conflict import conflict
from amodal.methods.contract import Method
from amodal.train.callbacks import Callback
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loggers import Logger


@dataclass(frozen=True)
class Monitoring:
    """What observes a run, and how often.

    Args:
        monitor: Measures held-out records and stops a collapsed run.
        log_every: Steps between entries of the log.
        measure_every: Steps between measurements; 0 for a twentieth of the run.
        save_every: Steps between checkpoints; 0 for a fifth of the run.
        conflict: Log the cosines between the gradients of the loss terms.
        config: The run's configuration, for loggers.
        quarantined: Returns the number of unreadable values so far.
    """

    monitor: CollapseMonitor
    log_every: int = 10
    measure_every: int = 0
    save_every: int = 0
    conflict: bool = False
    callbacks: Sequence[Callback] = ()
    loggers: Sequence[str | Logger] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    quarantined: Callable[[], int] = lambda: 0
    progress: bool = True


def gradient_conflicts(method: Method, batch: Batch, micro: int | None) -> dict[str, float]:
    """Cosines between the gradients of every two terms of the loss.

    They are of the batch, or of its first micro-batch of `micro` rows. Random state and buffers
    are as before afterwards.

    Returns:
        `conflict/a~b` -> cosine.
    """
    # a forward pass updates batch statistics
    before = [(buffer, buffer.clone()) for buffer in method.buffers()]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        cosines = conflict(method, next(iter(batch.split(micro))) if micro else batch)
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    return {f"conflict/{a}~{b}": value for (a, b), value in cosines.items()}
