"""Ctrl-C and SIGTERM: end after the current step, or at once."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

REPEAT_SECONDS = 2.0
"""A second signal after this time ends the process at once."""
_OPEN: list[dict[int, float]] = []
"""The requests of each context that is open: signal -> when. The innermost is the last."""


@contextlib.contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Catch SIGINT and SIGTERM.

    The first signal requests an end after the current step. A second one ends the process.

    A comparison trains runs one after the other, and a signal may come too late for the run of the
    moment to heed. The context around it gets the request then. Where there is none, and an error
    ends the run, the signal is sent anew: whoever handles that error would go on.

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
    failed = False
    if before:
        _OPEN.append(requested)
    try:
        yield lambda: bool(requested)
    except Exception:  # a KeyboardInterrupt heeds the request
        failed = True
        raise
    finally:
        if before:
            _OPEN.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
        if requested and _OPEN:
            _OPEN[-1].update(requested)
        elif requested and failed:
            signal.raise_signal(next(iter(requested)))
