"""The generated lattices against what is known in closed form."""

import numpy as np
from amodal_claims.sets import lattices


def test_one_element_has_the_band_of_the_square_lattice():
    energies, density = lattices.solve(np.full((8, 8), 0.7), np.full((8, 8), 1.1))
    for point, solved in zip(lattices.POINTS, energies):
        k = [2 * np.pi * (np.arange(8) + p) / 8 for p in point]
        band = 0.7 - 2 * 1.1 * (np.cos(k[0])[:, None] + np.cos(k[1]))
        np.testing.assert_allclose(solved, np.sort(band.ravel()), atol=1e-9)
    np.testing.assert_allclose(density, 1.0, atol=1e-9)


def test_the_gap_of_a_checkerboard_is_the_difference_of_its_elements():
    """E = mean +- sqrt((difference / 2)^2 + (hopping band)^2), and the band crosses zero at a point
    of the mesh only nearly."""
    x, y = np.meshgrid(np.arange(8), np.arange(8))
    species = (x + y) % 2
    energies, density = lattices.solve(np.where(species, 1.5, -1.5), np.ones((8, 8)))
    k = [2 * np.pi * (np.arange(8) + 0.25) / 8] * 2
    band = -2 * (np.cos(k[0])[:, None] + np.cos(k[1]))
    expected = 2 * np.sqrt(1.5**2 + band**2).min()
    assert abs(energies[:, 32].min() - energies[:, 31].max() - expected) < 1e-9
    assert density[species == 0].mean() > 1.2 and abs(density.sum() - 64) < 1e-9


def test_records_are_the_same_each_time_and_whole():
    one, other = lattices.record(5), lattices.record(5)
    assert all(np.array_equal(one[k], other[k]) for k in one)
    step = lattices.ENERGIES[1] - lattices.ENERGIES[0]
    for i in range(12):
        solved = lattices.record(i)
        assert abs(solved["dos"].sum() * step - 1) < 0.02 and solved["gap"] >= 0
        assert solved["first"] in solved["text"] and solved["order"] in solved["text"]
