"""What a run says while it goes: metrics.jsonl, TensorBoard, the progress bar."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Log:
    """One line of metrics.jsonl for each entry, and the same numbers in TensorBoard's files. `resume_at`: drop what a killed run
    wrote after the checkpoint it goes on from, so that no step stands twice."""

    def __init__(self, run: Path, *, resume_at: int = 0, tensorboard: bool = True):
        self.path = run / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= resume_at] if resume_at else []
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = self.path.open("a", buffering=1)
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_at or None)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step} | {k: round(float(v), 6) for k, v in values.items()}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def read(path: Path) -> list[dict]:
    """The entries of a metrics.jsonl; a last line that a kill cut short is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class Bar:
    """A progress bar with rate and time left; where nobody watches a terminal, a line every `every` seconds."""

    def __init__(self, title: str, total: int, *, start: int = 0, shown: bool = True, every: float = 15.0):
        self.title, self.total, self.start, self.done, self.every = title, total, start, start, every
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
            self.task = self.live.add_task(self.title, total=self.total, completed=self.start, note="")
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
            line = f"{self.title} {self.done}/{self.total} · {note} · {rate:.1f}/s · {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True)
