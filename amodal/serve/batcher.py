"""Requests that wait for the network go through it together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T, R = TypeVar("T"), TypeVar("R")


class Together(Generic[T, R]):
    """run: n items -> n results, called in one thread, one call at a time; most: items in a call,
    unless one request has more; seen: told of the size of each call.

    Nobody waits for company: an idle network begins at once, and what comes in while it works goes
    into its next call. So one client gets the shortest answer, and many clients the largest
    batches. If a call fails, its requests are tried one by one, so that each fails for reasons of
    its own.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        most: int = 64,
        seen: Callable[[int], object] = lambda n: None,
    ):
        self.run, self.most, self.seen = run, most, seen
        self.waiting: deque[tuple[list[T], asyncio.Future[list[R]]]] = deque()
        self.thread = ThreadPoolExecutor(1, "amodal-network")
        self.worker: asyncio.Task | None = None

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """The results of these items, in their order."""
        done: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self.waiting.append((list(items), done))
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
                    _settle(calls[0][1], error=error)
                continue
            for items, done in calls:
                _settle(done, results[: len(items)])
                results = results[len(items) :]

    async def _alone(self, items: list[T], done: asyncio.Future[list[R]]) -> None:
        try:
            _settle(done, await self._call(items))
        except Exception as error:
            _settle(done, error=error)

    async def _call(self, items: list[T]) -> list[R]:
        self.seen(len(items))
        return list(await asyncio.get_running_loop().run_in_executor(self.thread, self.run, items))

    def _next(self) -> list[tuple[list[T], asyncio.Future[list[R]]]]:
        """The requests that go together now, first come first served; those that nobody waits for
        any more are let go."""
        calls, size = [], 0
        while self.waiting and (not calls or size + len(self.waiting[0][0]) <= self.most):
            items, done = self.waiting.popleft()
            if not done.done():
                calls.append((items, done))
                size += len(items)
        return calls


def _settle(done: asyncio.Future, results=None, error: Exception | None = None) -> None:
    if done.done():  # whoever asked has gone
        return
    done.set_exception(error) if error is not None else done.set_result(results)
