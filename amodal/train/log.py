"""The metrics of a run: metrics.jsonl, and the loggers that get the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.train.hooks import calls_logger
from amodal.train.loggers import Logger, make_loggers


class MetricsLog:
    """Writes each entry as a line of metrics.jsonl, and passes it to every logger.

    Args:
        run: The run folder.
        resume_at: Step of the checkpoint that the run continues from. Later entries of a killed run
            are dropped, so that no step occurs twice.
        loggers: Names or callables, see `amodal.train.loggers`.
        config: The run's configuration, for loggers that show it.
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
            [line for line in read_metrics(self.path) if line["step"] <= resume_at]
            if resume_at
            else []
        )
        try:
            # written beside the log and renamed: a kill here must not lose earlier entries
            draft = self.path.with_name(f".{self.path.name}.draft")
            draft.write_text("".join(json.dumps(line) + "\n" for line in entries), encoding="utf-8")
            draft.replace(self.path)
            self.file = self.path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error
        made = make_loggers(loggers, run, config or {}, resume_at)
        self.loggers = list(zip(loggers, made))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one entry.

        Raises:
            AmodalError: If the disk is full, or a logger raises.
        """
        try:
            rounded = {k: round(float(v), 6) for k, v in values.items()}
            self.file.write(json.dumps({"step": step} | rounded) + "\n")
        except OSError as error:
            raise self._failed(error) from error
        for name, logger in self.loggers:
            with calls_logger(name, f"at step {step}"):
                logger(step, values)

    def _failed(self, error: OSError) -> AmodalError:
        return AmodalError(
            f"could not write to the log in {self.path.parent}: {error.strerror or error}. "
            "Checkpoints are not affected: free some space and continue with --resume."
        )

    def close(self) -> None:
        self.file.close()
        for name, logger in self.loggers:
            if callable(close := getattr(logger, "close", None)):
                with calls_logger(name, "to close"):
                    close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The entries of a metrics.jsonl, up to a last line that a kill cut short."""
    entries: list[dict[str, Any]] = []
    try:
        there = path.exists()
        text = regular(path).read_text(encoding="utf-8", errors="replace") if there else ""
    except OSError as error:
        raise AmodalError(f"the log {path} cannot be read: {error}") from error
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            break
        entries.append(entry)
    return entries


def seconds_of(run: Path) -> float:
    """Training time of a run by the last entry of its log; 0 without a log."""
    entries = reversed(read_metrics(run / "metrics.jsonl"))
    return next((float(e["seconds"]) for e in entries if "seconds" in e), 0.0)
