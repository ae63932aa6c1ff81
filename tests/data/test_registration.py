"""Phase correlation finds shifts, also by fractions of a pixel, and says where it cannot."""

import numpy as np
import pytest
from scipy import ndimage

from amodal.stats.registration import cross_spectrum, edges, mean_shift, resampled, shift_of


def ground(seed, side=160):
    """A picture with structure of many sizes."""
    rng = np.random.default_rng(seed)
    return sum(ndimage.gaussian_filter(rng.normal(size=(side, side)), s) * s for s in (1, 2, 4))


def cut(picture, down=0.0, right=0.0, side=48):
    """A window of a picture whose content is moved down and to the right."""
    moved = ndimage.shift(picture, (down, right), order=3, mode="reflect")
    return moved[40 : 40 + side, 40 : 40 + side]


@pytest.mark.parametrize("move", [(0, 0), (3, 0), (-2, 5), (0.5, -1.25), (7.3, 0)])
def test_a_shift_is_found_between_pictures_of_other_brightness(move):
    rng = np.random.default_rng(1)
    spectra = []
    for seed in range(8):
        first, second = cut(ground(seed)), cut(ground(seed), *move)
        # another sensor: darker where the first is brighter, and noisy
        second = -3 * second + 100 + rng.normal(size=second.shape) * 0.2
        spectra.append(cross_spectrum(edges(first[None]), edges(second[None])))
    found, drawn = mean_shift(np.stack(spectra), rng, draws=20)
    assert found.score > 10
    np.testing.assert_allclose((found.down, found.right), move, atol=0.2)
    np.testing.assert_allclose(drawn, np.broadcast_to(move, drawn.shape), atol=0.4)


def test_the_spectrum_and_the_peak_by_their_definition():
    """Transforms as products of matrices, and every shift tried."""
    first, second = edges(cut(ground(0))[None]), edges(cut(ground(0), 4, -3)[None])
    numbers = np.arange(48)
    matrix = np.exp(-2j * np.pi * np.outer(numbers, numbers) / 48)
    product = (matrix @ second @ matrix) * (matrix @ first @ matrix).conj()
    phases = product / np.abs(product)
    np.testing.assert_allclose(cross_spectrum(first, second), phases, atol=1e-4)

    def correlation(down, right):
        turn = down * numbers[:, None] + right * numbers
        return (phases * np.exp(2j * np.pi * turn / 48)).mean().real

    tried = [(down, right) for down in range(-8, 9) for right in range(-8, 9)]
    found = shift_of(cross_spectrum(first, second))
    best = max(tried, key=lambda move: correlation(*move))
    assert best == (round(found.down), round(found.right)) == (4, -3)


def test_pictures_of_other_places_have_no_shift_in_common():
    spectra = [
        cross_spectrum(edges(cut(ground(seed))[None]), edges(cut(ground(seed + 100))[None]))
        for seed in range(8)
    ]
    assert shift_of(np.mean(spectra, 0)).score < 6


def test_what_is_too_flat_too_small_or_too_empty_is_not_placed():
    picture = cut(ground(0))
    assert edges(np.ones((1, 20, 20))) is None
    assert edges(picture[None, :6]) is None
    gaps = picture.copy()
    gaps[:30] = np.nan
    assert edges(gaps[None]) is None
    # a band that says nothing does not hide the others, and a few gaps do no harm
    few = picture.copy()
    few[5:9, 5:9] = np.nan
    strength = edges(np.stack([np.full_like(picture, 7.0), few]))
    assert strength is not None and np.isfinite(strength).all()
    found = shift_of(cross_spectrum(edges(picture[None]), strength))
    assert found.length < 0.2 and found.score > 10


def test_means_over_cells_of_another_grid():
    plane = np.arange(24.0).reshape(4, 6)
    np.testing.assert_allclose(resampled(plane, (0, 2, 2), (0, 3, 2)), [[4, 7], [16, 19]])
    # half a pixel off: a cell has half of the pixels at its border
    np.testing.assert_allclose(resampled(plane[:1], (0, 1, 1), (0.5, 2, 2)), [[1, 3]])
    plane[0, 0] = np.nan
    np.testing.assert_allclose(resampled(plane, (0, 2, 1), (0, 2, 1)), [[(1 + 6 + 7) / 3]])
    plane[0, 1] = plane[1, 0] = np.nan
    assert np.isnan(resampled(plane, (0, 2, 1), (0, 2, 1))).all()
    # beyond the border there is nothing
    assert np.isnan(resampled(plane, (3, 2, 2), (0, 2, 1))[1]).all()
