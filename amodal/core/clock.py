"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """step: optimizer steps done, 1, 2, …; steps: how many there will be."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return min(self.step / max(self.steps, 1), 1.0)
