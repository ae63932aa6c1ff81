"""Dynamic batching: requests that wait for the network go through it together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Runs requests in batches, one batch at a time, in one thread.

    Nobody waits for company: an idle network begins at once, and what comes in while it works goes
    into its next batch. So one client gets the shortest latency, and many clients the largest
    batches. If a batch fails, its requests are tried one by one, so that each fails for reasons of
    its own.

    Args:
        run: n items -> n results.
        max_batch_size: Items in a batch, unless one request has more.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        max_batch_size: int = 64,
        on_batch: Callable[[int], object] = lambda n: None,
    ):
        self.run, self.max_batch_size, self.on_batch = run, max_batch_size, on_batch
        self.waiting: deque[tuple[list[T], asyncio.Future[list[R]]]] = deque()
        self.thread = ThreadPoolExecutor(1, "amodal-network")
        self.worker: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """The results of these items, in their order."""
        done: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self.waiting.append((list(items), done))
        # A worker ends when nobody waits. It does not await between its last look and its end, so
        # what was appended is either seen by it or finds it done.
        if self.worker is None or self.worker.done():
            self.worker = asyncio.get_running_loop().create_task(self._work())
        return await done

    async def _work(self) -> None:
        while calls := self._next():
            try:
                results = await self._call([item for items, _ in calls for item in items])
            except Exception as error:
                if len(calls) > 1:
                    for call in calls:
                        await self._alone(*call)
                else:
                    _fail(calls[0][1], error)
                continue
            for items, done in calls:
                _finish(done, results[: len(items)])
                results = results[len(items) :]

    async def _alone(self, items: list[T], done: asyncio.Future[list[R]]) -> None:
        try:
            _finish(done, await self._call(items))
        except Exception as error:
            _fail(done, error)

    async def _call(self, items: list[T]) -> list[R]:
        self.on_batch(len(items))
        return list(await asyncio.get_running_loop().run_in_executor(self.thread, self.run, items))

    def _next(self) -> list[tuple[list[T], asyncio.Future[list[R]]]]:
        """The requests of the next batch, first come first served. Those that nobody waits for any
        more are dropped."""
        calls: list[tuple[list[T], asyncio.Future[list[R]]]] = []
        size = 0
        # the first goes whatever its size, or a request above the limit would wait for ever
        while self.waiting and (not calls or size + len(self.waiting[0][0]) <= self.max_batch_size):
            items, done = self.waiting.popleft()
            if not done.done():
                calls.append((items, done))
                size += len(items)
        return calls


# A future is done already if whoever waited for it has gone.


def _finish(done: asyncio.Future[list[R]], results: list[R]) -> None:
    if not done.done():
        done.set_result(results)


def _fail(done: asyncio.Future[list[R]], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
