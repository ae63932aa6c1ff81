"""What can be found by how many seeds, against simulation; and which verdicts need that."""

import math

import numpy as np
import pytest
from amodal_claims import Comparison, decide
from amodal_claims._power import Pilot, detectable, plan, seeds_for
from scipy.stats import ttest_1samp


@pytest.mark.parametrize("seeds", [5, 8, 16])
def test_four_in_five_studies_find_the_detectable_effect(seeds):
    rng = np.random.default_rng(0)
    effect = detectable(0.3, seeds)
    differences = rng.normal(effect, 0.3, (20_000, seeds))
    found = ttest_1samp(differences, 0, axis=1)
    share = float(np.mean((found.pvalue < 0.05) & (found.statistic > 0)))
    assert share == pytest.approx(0.8, abs=0.02)


def test_the_fewest_seeds_that_find_half_of_what_is_of_interest():
    assert seeds_for(0.0, 0.1) == 5
    n = seeds_for(0.06, 0.1)
    assert detectable(0.06, n) <= 0.05 < detectable(0.06, n - 1)
    assert seeds_for(9.0, 0.1) == 16


def test_the_pilot_says_how_far_two_runs_differ():
    one = Pilot(10, [{"old": 0.5, "chance": 0.1}, {"old": 0.6, "chance": 0.1}])
    planned = plan(0.4, "old", ["chance"], [one])
    assert planned.deviation == pytest.approx(math.sqrt(2) * 0.1 / math.sqrt(2))
    assert planned.below == () and planned.steps == 10
    assert planned.detectable == pytest.approx(detectable(0.1, planned.seeds))


def test_one_run_below_a_floor_is_enough():
    one = Pilot(10, [{"old": 0.5, "simple": 0.55}, {"old": 0.6, "simple": 0.55}])
    assert one.below("old", ["simple"]) == ["simple"]


def decided(effects, old=0.5, **options):
    settings = {"interest": 0.1} | options
    comparison = Comparison("new > old", "accuracy", "new", "old", **settings)
    measured = [{"old": old, "new": old + e, "floor": 0.4} for e in effects]
    return decide(comparison, "old", ["floor"], measured)


@pytest.mark.parametrize(
    ("effects", "options", "verdict", "reason"),
    [
        ([0.10, 0.11, 0.12], {}, "reproduced", "one side"),
        ([-0.1, -0.11, -0.12], {}, "not reproduced", "one side"),
        ([0.0, 0.01, -0.01, 0.005], {}, "not reproduced", "an effect of 0.1 is excluded"),
        ([0.3, -0.3, 0.2, -0.2], {}, "no power", "would be found"),
        ([0.3, -0.3, 0.2, -0.2], {"interest": 2.0}, "not reproduced", "is excluded"),
        ([0.04, 0.15, -0.03, 0.14, 0.02], {"interest": 0.1}, "no power", "would be found"),
        ([0.10, 0.11, 0.12], {"old": 0.3}, "no power", "does not clear 'floor'"),
        ([0.0, 0.01, -0.01], {"within": 0.1}, "reproduced", "one side"),
        ([0.06, 0.15, 0.05, 0.15], {"within": 0.1}, "no power", "would be found"),
        ([-0.01, 0.0, 0.01, 0.0], {"margin": -0.05}, "reproduced", "one side"),
        ([-0.06, -0.03, -0.05, -0.04], {"margin": -0.05}, "inconclusive", "is excluded"),
    ],
)
def test_a_verdict_needs_a_control_that_learns_and_seeds_enough(effects, options, verdict, reason):
    judged = decided(effects, **options)
    assert judged.verdict == verdict and reason in judged.reason


def test_a_control_that_clears_its_floor_by_chance_does_not_clear_it():
    comparison = Comparison("new > old", "accuracy", "new", "old", interest=0.1)
    measured = [{"old": 0.5 + d, "new": 0.9 + d, "floor": 0.48} for d in (-0.1, 0.1, 0.05, -0.05)]
    assert decide(comparison, "old", ["floor"], measured).verdict == "no power"
