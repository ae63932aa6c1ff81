"""What a trial may take, and the thread that watches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from amodal.core import AmodalError
from amodal.core.process_memory import memory_in_use

Check = Callable[[], None]
"""Called often by whatever works on a trial. Raises if the trial has to end."""

SAMPLE_SECONDS = 0.1
"""Between two looks at the memory of the process."""


@dataclass(frozen=True)
class Limits:
    """Of one trial. One that goes over them fails, which is a result and is not tried a second
    time.

    Args:
        seconds: None for any time.
        memory: Bytes of the whole process, None for any.
    """

    seconds: float | None = None
    memory: int | None = None


class Pulse:
    """A thread beside a trial: it counts, so that others see that this process is alive, and
    samples the memory of the process.

    Args:
        limits: Of the trial.
        count: Called every few seconds with 0, 1, 2, …
        every: Seconds between these calls.
        interrupted: Whether the user has asked to end.
    """

    def __init__(
        self,
        limits: Limits,
        count: Callable[[int], None],
        every: float,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.limits, self.count, self.every, self.interrupted = limits, count, every, interrupted
        self.started, self.cpu_started = time.monotonic(), time.process_time()
        self.peak_bytes = memory_in_use()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self.count(0)
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self.thread.join()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def cpu_seconds(self) -> float:
        """Of all cores since the start: what it costs, however busy the machine is."""
        return time.process_time() - self.cpu_started

    def check(self) -> None:
        """Raise if the trial has to end.

        Raises:
            AmodalError: It took too long, or too much memory.
            KeyboardInterrupt: The user has asked to end.
        """
        if self.interrupted():
            raise KeyboardInterrupt
        limits = self.limits
        if limits.seconds is not None and self.seconds > limits.seconds:
            raise AmodalError(f"took longer than {limits.seconds:g} s")
        if limits.memory is not None and self.peak_bytes > limits.memory:
            raise AmodalError(f"took more than {limits.memory / 2**20:,.0f} MiB of memory")

    def _beat(self) -> None:
        counter, last = 0, time.monotonic()
        while not self.stopped.wait(min(SAMPLE_SECONDS, self.every)):
            self.peak_bytes = max(self.peak_bytes, memory_in_use())
            if time.monotonic() - last >= self.every:
                counter, last = counter + 1, time.monotonic()
                try:
                    self.count(counter)
                except AmodalError:
                    continue  # the storage is away for the moment; the trial goes on
