"""What a trial found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amodal.studies.study import Cell


@dataclass(frozen=True)
class Measured:
    """What an objective returns.

    Args:
        score: On the validation part; higher is better.
        details: Everything else, in JSON types, such as scores of tasks or a learning curve.
    """

    score: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The end of a trial.

    Args:
        score: Of the validation part, None if it failed.
        failed: A sentence that says why, "" for one that did not fail.
        details: What was measured, with `seconds`, `cpu_seconds` and `peak_bytes`
            of memory.
    """

    score: float | None = None
    failed: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """That the trial took; 0 where that is not known."""
        return float(self.details.get("seconds", 0.0))


Outcomes = Mapping["Cell", Outcome]
"""Of all trials that have ended."""
