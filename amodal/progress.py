"""Progress bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from amodal.console import stderr
from amodal.errors import AmodalError

Counter = Callable[[int], object] | bool | None
"""What a verb takes as `progress`: what is called with the number of records just done, True for
a bar, False or None for neither."""


class Bar:
    """A progress bar with the remaining time; without a terminal, a line from time to time.

    Args:
        total: Steps of the whole work, None where nobody knows.
        start: Steps that are done already.
        shown: Whether to print anything.
        every: Seconds between lines without a terminal.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        start: int = 0,
        shown: bool = True,
        every: float = 15.0,
    ):
        self.title, self.total, self.every = title, total, every
        self.start = self.done = start
        self.console = stderr()
        self.started = self.last = time.monotonic()
        self.live = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=False,
        )
        self.shown = shown
        self.live_shown = shown and sys.stderr.isatty()

    def __enter__(self) -> Bar:
        if self.live_shown:
            self.live.start()
            self.task = self.live.add_task(
                self.title, total=self.total, completed=self.start, note=""
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.live_shown:
            self.live.stop()

    def step(self, note: str, by: int = 1) -> None:
        """Advance by `by` steps. note: shown beside the bar."""
        self.done += by
        if self.live_shown:
            self.live.update(self.task, completed=self.done, note=note)
        elif self.shown and (time.monotonic() - self.last > self.every or self.done == self.total):
            self.last = time.monotonic()
            rate = (self.done - self.start) / max(self.last - self.started, 1e-9)
            of = left = ""
            if self.total is not None:
                of = f"/{self.total}"
                left = f" · {(self.total - self.done) / max(rate, 1e-9):.0f} s left"
            line = f"{self.title} {self.done}{of} · {note} · {rate:.1f}/s{left}"
            self.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def counted(
    progress: Counter, title: str, total: int | None = None
) -> Iterator[Callable[[int], object] | None]:
    """What is called with the number of records just done.

    Args:
        progress: As a user gives it.
        title: Of the bar, if there is to be one.
        total: Records of the whole work, None where nobody knows.

    Raises:
        AmodalError: For what is neither True, False nor callable.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with Bar(title, total) as bar:
            yield lambda n: bar.step("records", by=n)
    elif callable(progress):
        yield progress
    else:
        raise AmodalError(
            "progress must be True, for a bar, False, or a function that is called with the "
            f"number of records just done; it is {progress!r}"
        )
