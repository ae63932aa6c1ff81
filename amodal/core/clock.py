"""The progress of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """The progress of a run.

    Args:
        step: Optimizer steps done, 1, 2, …
        steps: Of the whole run.
    """

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return min(self.step / max(self.steps, 1), 1.0)
