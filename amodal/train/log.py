"""What a run writes while it goes: metrics.jsonl, and what loggers make of the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from amodal.core import AmodalError
from amodal.train import loggers as making
from amodal.train.loggers import Logger


class Log:
    """One line of metrics.jsonl for each entry, and the same numbers for each logger.

    Args:
        resume_at: drop what a killed run wrote after the checkpoint it goes on from, so that no
            step stands twice.
        loggers: names or callables, see `amodal.train.loggers`.
        config: of the run, for loggers that show it.
    """

    def __init__(
        self,
        run: Path,
        *,
        resume_at: int = 0,
        loggers: Sequence[str | Logger] = (),
        config: Mapping[str, object] | None = None,
    ):
        self.path = run / "metrics.jsonl"
        entries = (
            [line for line in read(self.path) if line["step"] <= resume_at] if resume_at else []
        )
        try:
            draft = self.path.with_name(
                f".{self.path.name}.draft"
            )  # a kill right here must not cost what was logged
            draft.write_text("".join(json.dumps(line) + "\n" for line in entries))
            draft.replace(self.path)
            self.file = self.path.open("a", buffering=1)
            self.loggers = making.start(loggers, run, config or {}, resume_at)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self.file.write(
                json.dumps({"step": step} | {k: round(float(v), 6) for k, v in values.items()})
                + "\n"
            )
            for logger in self.loggers:
                logger(step, values)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> AmodalError:
        return AmodalError(
            f"could not write to the log in {self.path.parent}: {error.strerror or error}. "
            "Checkpoints are unharmed: "
            "free some space, and go on with --resume."
        )

    def close(self) -> None:
        self.file.close()
        for logger in self.loggers:
            if callable(close := getattr(logger, "close", None)):
                close()


def read(path: Path) -> list[dict]:
    """The entries of a metrics.jsonl; a last line that a kill cut short is left out."""
    entries = []
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    ):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            break
        entries.append(entry)
    return entries


def seconds_of(run: Path) -> float:
    """How long the run trained, by the last entry of its log; 0 if somebody removed that."""
    return next(
        (e["seconds"] for e in reversed(read(run / "metrics.jsonl")) if "seconds" in e), 0.0
    )
