"""The progress of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
    def length_read(self) -> bool:
        """Whether anything has read how long the run is."""
        return "read" in self.__dict__

    def __getattribute__(self, name: str) -> Any:
        if name == "steps":
            object.__setattr__(self, "read", True)
        return object.__getattribute__(self, name)

    @property
    def progress(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return min(self.step / max(self.steps, 1), 1.0)
