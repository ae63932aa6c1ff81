"""Grounding metrics against a loop over pixels."""

import numpy as np
import torch

from amodal.evaluate.grounding import contrast_to_noise, coverage, mass_inside, overlap, pointing

SIDE, GRID = 12, (4, 3)
BOXES = torch.tensor([[0, 0, 4, 3], [1, 2, 7, 11], [8, 9, 12, 12], [5, 1, 6, 2]])
MAPS = torch.from_numpy(np.random.default_rng(0).normal(size=(4, *GRID)))


def pixels(n):
    """The map blown up to the image, and which pixels are in the box."""
    big = MAPS[n].numpy().repeat(SIDE // GRID[0], 0).repeat(SIDE // GRID[1], 1)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    left, top, right, bottom = BOXES[n].tolist()
    inside[top:bottom, left:right] = True
    return big, inside


def test_metrics_are_those_of_the_pixels():
    cover = coverage(BOXES, SIDE, GRID)
    for n in range(4):
        big, inside = pixels(n)
        blocks = inside.reshape(GRID[0], SIDE // GRID[0], GRID[1], SIDE // GRID[1]).mean((1, 3))
        np.testing.assert_allclose(cover[n], blocks)
        a, b = big[inside], big[~inside]
        np.testing.assert_allclose(
            contrast_to_noise(MAPS, cover)[n],
            (a.mean() - b.mean()) / np.sqrt(a.var() + b.var()),
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            mass_inside(MAPS.exp(), cover)[n], np.exp(a).sum() / np.exp(big).sum()
        )
        np.testing.assert_allclose(
            overlap(MAPS, cover, 0.2)[n],
            ((big > 0.2) & inside).sum() / ((big > 0.2) | inside).sum(),
        )
        assert pointing(MAPS, cover)[n] == (blocks.flat[int(MAPS[n].flatten().argmax())] > 0)


def test_a_map_of_the_box_itself_is_perfect():
    cover = coverage(BOXES[:1], SIDE, GRID)  # exactly one patch
    assert pointing(cover, cover) == mass_inside(cover, cover) == overlap(cover, cover, 0.5) == 1
    assert contrast_to_noise(cover, cover) > 1e3 and contrast_to_noise(-cover, cover) < -1e3
