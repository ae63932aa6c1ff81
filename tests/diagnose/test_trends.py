"""Trends of topics over the years."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, linregress

from amodal.core import AmodalError
from amodal.diagnose.trends import corrected, trends


def test_trends_are_slopes_and_planted_growth_is_found():
    rng = np.random.default_rng(1)
    years = rng.integers(2019, 2025, 1500)
    topics = {"grows": rng.random(1500) < 0.1 + 0.03 * (years - 2019)}
    topics |= {f"flat {i}": rng.random(1500) < 0.2 for i in range(15)}
    found = trends(years, topics, draws=500)
    for name, one in found.items():
        peer = linregress(years, np.asarray(topics[name], float))
        assert one.slope == pytest.approx(peer.slope) and one.p == pytest.approx(
            peer.pvalue, abs=0.08
        )
    assert [name for name, one in found.items() if one.q < 0.05] == ["grows"]
    assert found["grows"].shares[0] == pytest.approx(topics["grows"][years == 2019].mean())
    with pytest.raises(AmodalError, match="two years"):
        trends([2020, 2020], {"a": [True, False]})
    with pytest.raises(AmodalError, match="a \\(1\\)"):
        trends([2020, 2021], {"a": [True]})


def test_the_correction_is_that_of_scipy():
    p = np.array([0.2, 0.01, 0.04, 0.01, 0.9])
    assert corrected(p) == pytest.approx(false_discovery_control(p))
