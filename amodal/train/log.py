"""What a run writes while it goes: metrics.jsonl and TensorBoard's files."""

from __future__ import annotations

import json
from pathlib import Path

from amodal.core import AmodalError


class Log:
    """One line of metrics.jsonl for each entry, and the same numbers in TensorBoard's files. `resume_at`: drop what a killed run
    wrote after the checkpoint it goes on from, so that no step stands twice."""

    def __init__(self, run: Path, *, resume_at: int = 0, tensorboard: bool = True):
        self.path = run / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= resume_at] if resume_at else []
        try:
            self._open(kept, resume_at, run, tensorboard)
        except OSError as error:
            raise self._failed(error) from error

    def _open(self, kept: list[dict], resume_at: int, run: Path, tensorboard: bool) -> None:
        draft = self.path.with_name(f".{self.path.name}.draft")  # a kill right here must not cost what was logged
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
        draft.replace(self.path)
        self.file = self.path.open("a", buffering=1)
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_at or None)

    def write(self, step: int, values: dict[str, float]) -> None:
        try:
            self.file.write(json.dumps({"step": step} | {k: round(float(v), 6) for k, v in values.items()}) + "\n")
            if self.board is not None:
                for name, value in values.items():
                    self.board.add_scalar(name, value, step)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> AmodalError:
        return AmodalError(
            f"could not write to the log in {self.path.parent}: {error.strerror or error}. Checkpoints are unharmed: free some space, and "
            "go on with --resume."
        )

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def read(path: Path) -> list[dict]:
    """The entries of a metrics.jsonl; a last line that a kill cut short is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            break
        entries.append(entry)
    return entries
