"""Ctrl-C and terminations: a clean end after the step, or now."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

IMPATIENCE = 2.0
"""Seconds after which the same signal means: now."""


@contextlib.contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or a termination was asked for.

    The first asks for a clean end after the step, a second one ends the process as usual.
    """
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
