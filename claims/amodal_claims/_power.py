"""What a comparison can show: the detectable effect, and how many seeds it takes.

A pilot trains the control arm alone, on seeds that the claim does not use. It chooses the shortest
training after which the control has learnt something (it clears its floors), and says how far
two runs of it differ by chance. From that follow the seeds. Nothing here looks at the arm that the
claim is about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

PILOT_SEEDS = (1000, 1001)
"""Of the pilot: other numbers than those of a claim, which count from 0."""
FEWEST, MOST = 5, 16
"""Seeds of a claim."""
FIRST = 8
"""The most seeds that the pilot alone may ask for. Its two runs say little about the deviation, and
nothing about pairing; more are added by the deviation of the differences themselves."""
POWER, CONFIDENCE = 0.8, 0.95

Measurements = Sequence[Mapping[str, float]]


def detectable(deviation: float, seeds: int) -> float:
    """The effect that a paired comparison finds with a probability of 80 %, at 5 % of false alarms.

    Args:
        deviation: Standard deviation of the difference between the arms over seeds.
        seeds: How many, at least 2.

    Returns:
        (t_.975 + t_.8) * deviation / sqrt(seeds), in the units of the metric.
    """
    free = seeds - 1
    quantiles = student.ppf(0.5 + CONFIDENCE / 2, free) + student.ppf(POWER, free)
    return float(quantiles) * deviation / math.sqrt(seeds)


def seeds_for(deviation: float, interest: float, most: int = MOST) -> int:
    """The fewest seeds, from 5, at which half of the effect of interest can be found; `most` if
    there are no such."""
    enough = (n for n in range(FEWEST, most) if detectable(deviation, n) <= interest / 2)
    return next(enough, most)


@dataclass(frozen=True)
class Pilot:
    """The control arm at one length of training.

    Args:
        steps: Of training.
        measured: What `control` returned, for each of PILOT_SEEDS.
    """

    steps: int
    measured: Measurements

    def below(self, control: str, floors: Sequence[str]) -> list[str]:
        """The floors that the control does not clear with every seed of the pilot."""
        return [f for f in floors if not all(m[control] > m[f] for m in self.measured)]


@dataclass(frozen=True)
class Plan:
    """How a claim is run, fixed before its first seed and stored.

    Args:
        interest: The smallest effect that would matter.
        steps: Of training: the fewest at which the control clears its floors, else the most.
        deviation: Of the difference between two arms, if they vary like two runs of the control
            and pairing gains nothing.
        seeds: To begin with.
        detectable: The effect that so many seeds find.
        below: Floors that the control clears at no length of training: such a claim is not run.
        pilots: All lengths that were tried.
    """

    interest: float
    steps: int
    deviation: float
    seeds: int
    detectable: float
    below: tuple[str, ...]
    pilots: tuple[Pilot, ...]

    def as_dict(self) -> dict[str, Any]:
        """In JSON types."""
        pilots = [asdict(p) for p in self.pilots]
        return asdict(self) | {"below": [*self.below], "pilots": pilots}

    def __str__(self) -> str:
        tried = ", ".join(str(p.steps) for p in self.pilots)
        if self.below:
            return (
                f"no power: after {tried} steps the control does not clear "
                f"{', '.join(self.below)}, so a comparison with it would say nothing"
            )
        return (
            f"{self.steps} steps; {self.seeds} seeds find an effect of {self.detectable:.3f} or "
            f"more, and {self.interest:g} is of interest"
        )


def plan(interest: float, control: str, floors: Sequence[str], pilots: Sequence[Pilot]) -> Plan:
    """What follows from the pilots.

    Args:
        interest: The smallest effect that would matter.
        control: The name of the control arm in what was measured.
        floors: Names of what it has to clear.
        pilots: By ascending steps; the last one is the one that cleared the floors, if any did.

    Returns:
        The plan.
    """
    last = pilots[-1]
    deviation = math.sqrt(2) * stdev(m[control] for m in last.measured)
    seeds = seeds_for(deviation, interest, FIRST)
    return Plan(
        interest,
        last.steps,
        deviation,
        seeds,
        detectable(deviation, seeds),
        tuple(last.below(control, floors)),
        tuple(pilots),
    )


def deviation_of(differences: Sequence[float]) -> float:
    """Standard deviation of the differences between two arms over paired seeds."""
    return stdev(differences) if len(differences) > 1 else math.nan


def level(name: str | float, measured: Measurements) -> float:
    """The mean of an arm, or the number that stands for one."""
    return mean(m[name] for m in measured) if isinstance(name, str) else name
