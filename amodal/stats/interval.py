"""The interval of a mean over few repetitions.

Ours: the table has the three decimals of printed tables, by which claims were recorded;
`scipy.stats.t` has more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

# fmt: off
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)
# fmt: on
"""97.5 % quantiles of Student's t for 1, 2, … 30 degrees of freedom."""

__all__ = ["half_width", "mean"]


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the mean (Student); NaN for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    quantile = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    return quantile * stdev(values) / math.sqrt(n)
