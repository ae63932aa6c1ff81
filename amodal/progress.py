"""What long work says while it goes."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """A progress bar with rate and time left; where nobody watches a terminal, a line every `every`
    seconds."""

    def __init__(
        self, title: str, total: int, *, start: int = 0, shown: bool = True, every: float = 15.0
    ):
        self.title, self.total, self.start, self.done, self.every = (
            title,
            total,
            start,
            start,
            every,
        )
        self.console = Console(stderr=True)
        self.begun = self.last = time.monotonic()
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
        self.fancy = shown and sys.stderr.isatty()

    def __enter__(self) -> Bar:
        if self.fancy:
            self.live.start()
            self.task = self.live.add_task(
                self.title, total=self.total, completed=self.start, note=""
            )
        return self

    def __exit__(self, *_) -> None:
        if self.fancy:
            self.live.stop()

    def step(self, note: str, by: int = 1) -> None:
        self.done += by
        if self.fancy:
            self.live.update(self.task, completed=self.done, note=note)
        elif self.shown and (time.monotonic() - self.last > self.every or self.done >= self.total):
            self.last = time.monotonic()
            rate = (self.done - self.start) / max(self.last - self.begun, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            line = (
                f"{self.title} {self.done}/{self.total} · {note} · {rate:.1f}/s · {left:.0f} s left"
            )
            self.console.print(line, highlight=False, soft_wrap=True)
