"""Ctrl-C and SIGTERM: end after the current step, or at once."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

REPEAT_SECONDS = 2.0
"""A second signal after this time ends the process at once."""


@contextlib.contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM.

    The first signal requests an end after the current step. A second one ends the process.

    Yields:
        A function that returns whether an end was requested.
    """
    requested: dict[int, float] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        # torchrun sends both signals in quick succession: that is one request
        if time.monotonic() - requested.get(number, time.monotonic()) > REPEAT_SECONDS:
            raise KeyboardInterrupt
        requested.setdefault(number, time.monotonic())

    try:
        before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signals cannot be caught
        before = {}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
