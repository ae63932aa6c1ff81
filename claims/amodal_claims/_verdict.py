"""From paired measurements to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amodal.stats.interval import half_width, mean


@dataclass(frozen=True)
class Comparison:
    """this should exceed against by more than `margin`; or, where `within` is given, differ from it
    by less than that.

    this, against: names of what `measure` returns; `against` may also be a number (chance). metric:
    what they are, in words.
    """

    what: str
    metric: str
    this: str
    against: str | float
    margin: float = 0.0
    within: float | None = None


@dataclass(frozen=True)
class Finding:
    """this, against: means over the seeds; effect: their difference; interval: its 95 % interval
    over paired seeds."""

    what: str
    metric: str
    this: float
    against: float
    effect: float
    interval: tuple[float, float]
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        rounded = {k: round(v, 5) for k, v in asdict(self).items() if isinstance(v, float)}
        return asdict(self) | rounded | {"interval": [round(v, 5) for v in self.interval]}


def judge(comparison: Comparison, measured: Sequence[dict[str, float]]) -> Finding:
    """reproduced: the whole interval is on the claimed side. not reproduced: the whole interval is
    on the other. Else inconclusive."""
    this = [m[comparison.this] for m in measured]
    against = [
        m[comparison.against] if isinstance(comparison.against, str) else comparison.against
        for m in measured
    ]
    differences = [a - b for a, b in zip(this, against)]
    effect, half = mean(differences), half_width(differences)
    low, high = effect - half, effect + half
    if comparison.within is not None:
        inside, outside = (
            -comparison.within < low and high < comparison.within,
            low > comparison.within or high < -comparison.within,
        )
    else:
        inside, outside = low > comparison.margin, high <= comparison.margin
    verdict = "reproduced" if inside else "not reproduced" if outside else "inconclusive"
    return Finding(
        comparison.what, comparison.metric, mean(this), mean(against), effect, (low, high), verdict
    )
