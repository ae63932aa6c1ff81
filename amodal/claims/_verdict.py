"""From paired measurements to a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

# two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom
STUDENT = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


@dataclass(frozen=True)
class Comparison:
    """this should exceed against by more than `margin`; or, where `within` is given, differ from it by less than that.

    this, against: names of what `measure` returns; `against` may also be a number (chance). metric: what they are, in words.
    """

    what: str
    metric: str
    this: str
    against: str | float
    margin: float = 0.0
    within: float | None = None


@dataclass(frozen=True)
class Finding:
    """this, against: means over the seeds; effect: their difference; interval: its 95 % interval over paired seeds."""

    what: str
    metric: str
    this: float
    against: float
    effect: float
    interval: tuple[float, float]
    verdict: str

    def as_dict(self) -> dict:
        rounded = {k: round(v, 5) for k, v in asdict(self).items() if isinstance(v, float)}
        return asdict(self) | rounded | {"interval": [round(v, 5) for v in self.interval]}


def judge(comparison: Comparison, measured: Sequence[dict[str, float]]) -> Finding:
    """reproduced: the whole interval is on the claimed side. not reproduced: the whole interval is on the other. Else
    inconclusive."""
    this = [m[comparison.this] for m in measured]
    against = [m[comparison.against] if isinstance(comparison.against, str) else comparison.against for m in measured]
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
    return Finding(comparison.what, comparison.metric, mean(this), mean(against), effect, (low, high), verdict)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean."""
    n = len(values)
    variance = sum((v - mean(values)) ** 2 for v in values) / (n - 1)
    quantile = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    return quantile * math.sqrt(variance / n)
