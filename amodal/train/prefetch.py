"""Prepare the next batches while this one is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from amodal.core import Batch

T = TypeVar("T")
Batches = Callable[..., Iterable[Batch]]
"""(first step) or (first step, group of each record) -> the batches from that step on."""


def prefetch(items: Iterable[T], ahead: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, prepared in a thread.

    Decoding and augmentation mostly run in code that releases the GIL. An error in the thread is
    raised here, when its item is due.

    Args:
        ahead: Items that are held ready at most.
    """
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(maxsize=ahead)
    halt = threading.Event()

    def put(entry: tuple[list[T], BaseException | None]) -> bool:
        # with a timeout, so that the thread ends when the consumer has stopped
        while not halt.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(([item], None)):
                    return
            put(([], StopIteration()))
        except BaseException as e:  # handed over, not swallowed
            put(([], e))

    thread = threading.Thread(target=work, daemon=True, name="amodal-prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item[0]
    finally:
        halt.set()
        thread.join()


class Stream:
    """Batches prepared ahead, from a step on. It is reopened when a stage draws other batches."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.running: Generator[Batch, None, None] | None = None

    def open(self, first: int, groups: npt.NDArray[np.int64] | None) -> None:
        """Start at step `first`. groups: (n,) the group of each record, None for no groups."""
        self.close()
        self.running = prefetch(
            self.batches(first) if groups is None else self.batches(first, groups)
        )

    def __next__(self) -> Batch:
        assert self.running is not None, "open comes first"
        return next(self.running)

    def close(self) -> None:
        if self.running is not None:
            self.running.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
