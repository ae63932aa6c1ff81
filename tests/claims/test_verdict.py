"""From paired measurements to a verdict."""

import math
import statistics

import pytest
from amodal_claims import Comparison
from amodal_claims._verdict import judge

from amodal.stats.interval import STUDENT, half_width


def findings(effects, **options):
    return judge(
        Comparison("a > b", "accuracy", "a", "b", **options),
        [{"a": 0.5 + e, "b": 0.5} for e in effects],
    )


@pytest.mark.parametrize(
    ("effects", "options", "verdict"),
    [
        ([0.10, 0.11, 0.12], {}, "reproduced"),
        ([-0.10, -0.11, -0.12], {}, "not reproduced"),
        ([-0.10, 0.30, 0.05], {}, "inconclusive"),
        ([0.0, 0.0, 0.0], {}, "not reproduced"),  # no effect at all is not the claimed one
        ([0.10, 0.11, 0.12], {"margin": 0.05}, "reproduced"),
        ([0.10, 0.11, 0.12], {"margin": 0.11}, "inconclusive"),
        ([0.10, 0.11, 0.12], {"margin": 0.30}, "not reproduced"),
        ([0.00, 0.01, -0.01], {"within": 0.05}, "reproduced"),
        ([0.0, 0.0, 0.0], {"within": 1e-5}, "reproduced"),
        ([0.20, 0.21, 0.22], {"within": 0.05}, "not reproduced"),
        ([-0.20, -0.21, -0.22], {"within": 0.05}, "not reproduced"),
        ([0.03, 0.05, 0.07], {"within": 0.05}, "inconclusive"),
    ],
)
def test_the_whole_interval_decides(effects, options, verdict):
    assert findings(effects, **options).verdict == verdict


def test_a_number_may_stand_for_the_other_arm():
    found = judge(
        Comparison("a > chance", "accuracy", "a", 0.25), [{"a": 0.5}, {"a": 0.6}, {"a": 0.7}]
    )
    assert found.against == 0.25 and found.effect == pytest.approx(0.35)


def test_the_interval_is_students_over_pairs():
    effects = [0.1, 0.2, 0.4, 0.3, 0.2]
    found = findings(effects)
    half = 2.776 * statistics.stdev(effects) / math.sqrt(5)
    assert found.effect == pytest.approx(statistics.mean(effects))
    assert found.interval == pytest.approx((found.effect - half, found.effect + half))


def test_what_both_arms_share_cancels():
    level = [0.1, 0.5, 0.9]  # seeds differ far more than arms do
    found = judge(
        Comparison("a > b", "", "a", "b"),
        [{"a": x + 0.02 + 0.001 * i, "b": x} for i, x in enumerate(level)],
    )
    assert found.verdict == "reproduced" and found.interval[1] - found.interval[0] < 0.01


def test_few_seeds_make_wide_intervals():
    assert half_width([0.0, 1.0]) == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2))
    assert list(STUDENT) == sorted(STUDENT, reverse=True)
