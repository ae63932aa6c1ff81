"""Prepare the next batches while this one is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from amodal.core import Batch


def prefetch(items: Iterable, ahead: int = 2) -> Iterator:
    """The same items in the same order, drawn in a thread that keeps up to `ahead` of them ready.
    Decoding and augmenting spend their time in code that lets other threads run. An error in the
    thread is raised here, when its item is due."""
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    halt = threading.Event()

    def put(entry) -> bool:
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
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as e:  # handed over, not swallowed
            put((None, e))

    thread = threading.Thread(target=work, daemon=True, name="amodal-prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        halt.set()
        thread.join()


class Stream:
    """Batches prepared ahead, from a step on; opened again where a stage draws other batches."""

    def __init__(self, batches: Callable[..., Iterable[Batch]]):
        self.batches, self.running = batches, None

    def open(self, first: int, groups: np.ndarray | None) -> None:
        self.close()
        self.running = prefetch(
            self.batches(first) if groups is None else self.batches(first, groups)
        )

    def __next__(self) -> Batch:
        return next(self.running)

    def close(self) -> None:
        if self.running is not None:
            self.running.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_) -> None:
        self.close()
