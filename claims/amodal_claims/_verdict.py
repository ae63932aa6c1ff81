"""From paired measurements to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amodal.stats.interval import half_width, mean
from amodal_claims._power import Measurements, detectable, deviation_of, level

VERDICTS = ("reproduced", "not reproduced", "inconclusive", "no power")
"""What can be believed comes first."""


@dataclass(frozen=True)
class Comparison:
    """this should exceed against by more than `margin`; or, where `within` is given, differ from it
    by less than that.

    this, against: names of what `measure` returns; `against` may also be a number (chance). metric:
    what they are, in words; more is better. interest: the smallest difference that would matter, for
    the comparison that decides a claim.
    """

    what: str
    metric: str
    this: str
    against: str | float
    margin: float = 0.0
    within: float | None = None
    interest: float | None = None

    def differences(self, measured: Measurements) -> list[float]:
        """this - against, for each seed."""
        return [
            m[self.this] - (m[self.against] if isinstance(self.against, str) else self.against)
            for m in measured
        ]


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


@dataclass(frozen=True)
class Judgement:
    """What came of the comparison that decides a claim.

    Args:
        verdict: One of VERDICTS.
        reason: In words.
        detectable: The effect that the seeds find, by the deviation of their differences.
    """

    verdict: str
    reason: str
    detectable: float


def judge(comparison: Comparison, measured: Measurements) -> Finding:
    """reproduced: the whole interval is on the claimed side. not reproduced: the whole interval is
    on the other. Else inconclusive."""
    differences = comparison.differences(measured)
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
    this, against = (level(arm, measured) for arm in (comparison.this, comparison.against))
    return Finding(comparison.what, comparison.metric, this, against, effect, (low, high), verdict)


def found_by(comparison: Comparison, measured: Measurements) -> float:
    """The effect that so many seeds find, by the deviation of their differences."""
    return detectable(deviation_of(comparison.differences(measured)), len(measured))


def decide(
    comparison: Comparison, control: str, floors: Sequence[str], measured: Measurements
) -> Judgement:
    """The verdict of the comparison that decides a claim.

    Args:
        comparison: With an `interest`.
        control: The arm that the other one is compared with.
        floors: Names of what it has to clear, such as chance and simple features.
        measured: What `measure` returned, by seed.

    Returns:
        *no power* if the control does not clear a floor (with its whole interval), or if neither
        zero nor the effect of interest is outside the interval and the seeds could not have found
        half of it. *not reproduced* also where an effect of interest is excluded.
    """
    assert comparison.interest is not None
    found = judge(comparison, measured)
    smallest = found_by(comparison, measured)
    for floor in floors:
        lead = judge(Comparison("", "", control, floor), measured)
        if lead.verdict != "reproduced":
            reason = (
                f"{control!r} ({lead.this:.3f}) does not clear {floor!r} ({lead.against:.3f}; "
                f"interval of its lead {lead.interval[0]:+.3f} … {lead.interval[1]:+.3f})"
            )
            return Judgement("no power", reason, smallest)
    of_interest = f"an effect of {comparison.interest:g}"
    if found.verdict != "inconclusive":
        return Judgement(found.verdict, "the whole interval is on one side", smallest)
    if comparison.within is None and comparison.margin >= 0:
        if found.interval[1] < comparison.margin + comparison.interest:
            return Judgement("not reproduced", f"{of_interest} is excluded", smallest)
    if smallest > comparison.interest / 2:
        reason = f"{smallest:.3f} or more would be found, half of {of_interest} would not"
        return Judgement("no power", reason, smallest)
    return Judgement("inconclusive", f"neither none nor {of_interest} is excluded", smallest)
