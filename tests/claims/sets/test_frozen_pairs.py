"""Vectors of frozen models: centred and turned by one domain alone."""

import numpy as np
from amodal_claims.sets.frozen_pairs import _turned


def test_directions_and_centre_come_from_the_home_domain_and_cosines_survive():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)) * [1, 9, 2, 5, 3, 4] + 7
    home = np.arange(40) < 30
    whole = _turned(x, home)
    centred = x - x[home].mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(whole @ whole.T, 6 * unit @ unit.T, atol=1e-5)
    few = _turned(x, home, 2)
    np.testing.assert_allclose(np.square(few).sum(1), 2, rtol=1e-5)
    moved = x.copy()
    moved[~home] += 100
    np.testing.assert_allclose(_turned(moved, home, 2)[home], few[home], atol=1e-5)
