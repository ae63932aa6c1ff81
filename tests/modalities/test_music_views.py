"""The augmentations of UCASR, one by one."""

import numpy as np
import pytest

from amodal.modalities import make
from amodal.modalities.shared import sheet_views, sound_views

RATE = 8000


class Script:
    """Draws what it was given, then what a generator draws."""

    def __init__(self, *chances, seed=0):
        self.chances, self.rng = list(chances), np.random.default_rng(seed)

    def random(self):
        return self.chances.pop(0) if self.chances else 1.0

    def __getattr__(self, name):
        return getattr(self.rng, name)


def tone(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def pitch(wave):
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave)


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.3, 1.8])
def test_a_stretch_changes_length_and_not_pitch(speed):
    out = sound_views.stretched(tone(440), speed)
    assert len(out) == round(RATE / speed) and pitch(out) == pytest.approx(440, abs=3)
    middle = out[len(out) // 4 : -len(out) // 4]
    # bins of one tone are not turned together, which costs some of its height
    assert 0.6 < np.abs(middle).max() < 1.15


def test_a_clip_in_the_middle_of_a_stretch_is_where_it_should_be():
    wave = np.zeros(RATE)
    wave[4000:4400] = tone(800, 0.05)
    out = np.abs(sound_views.stretched(wave, 0.5))
    centre = (out * np.arange(len(out))).sum() / out.sum()
    assert centre == pytest.approx(2 * 4200, rel=0.05)


def test_bands_of_the_equaliser():
    gains = np.array([0, 6, 0, -12, 0, 0, 0.0])
    for hertz, gain in [(150, 6), (1000, -12), (50, 0), (2000, 0)]:
        out = sound_views.equalised(tone(hertz), RATE, gains)
        assert 20 * np.log10(np.abs(out).max()) == pytest.approx(gain, abs=0.2)


def test_each_change_of_sound_alone():
    wave, no = tone(440), 0.99
    names = ["shift", "stretch", "polarity", "gain", "noise", "equaliser", "band", "time"]
    views = {
        name: sound_views.music_view(wave, RATE, Script(*[no] * i, 0.0, *[no] * 8))
        for i, name in enumerate(names)
    }
    assert np.array_equal(sound_views.music_view(wave, RATE, Script(*[no] * 8)), wave)
    for name, out in views.items():
        assert out.shape == wave.shape and out.dtype == np.float32
        assert not np.array_equal(out, wave), name
    assert np.array_equal(views["polarity"], -wave)
    ratio = views["gain"][5:50] / wave[5:50]
    assert ratio.std() < 1e-4 and 10 ** (-12 / 20) <= ratio[0] <= 10 ** (12 / 20)
    silent = (views["time"] == 0).mean()
    assert 0.005 < silent < 0.21
    noise = views["noise"] - wave
    decibels = 10 * np.log10((wave**2).mean() / (noise**2).mean())
    assert 4.5 < decibels < 40.5
    shifted = len(wave) - np.flatnonzero(views["shift"])[-1]
    assert shifted <= 0.3 * RATE + 1


def test_how_often_each_is_done_is_that_of_the_authors():
    v = sound_views
    assert (v.SHIFT, v.STRETCH, v.POLARITY, v.GAIN) == (0.5, 0.4, 0.5, 0.5)
    assert (v.NOISE, v.TIME, v.EQUALISER, v.BAND) == (0.4, 0.5, 0.3, 0.35)
    assert v.MAX_SHIFT == pytest.approx(1 - 0.7) and (v.SPEEDS, v.MAX_MASKED) == ((0.5, 1.8), 0.2)
    s = sheet_views
    assert (s.SCALE, s.SHIFT, s.ROTATE, s.NOISE) == (0.45, 0.65, 0.35, 0.25)
    assert (s.BLUR, s.PERLIN, s.ELASTIC, s.SCALES) == (0.25, 0.2, 0.2, (0.9, 1.1))
    assert (s.MAX_DEGREES, s.MAX_SHIFT, s.FINE, s.COARSE) == (
        4,
        (0.1, 0.2),
        (50, 200, 0.2),
        (2, 10, 0.5),
    )


def line(side=41):
    picture = np.full((1, side, side), 255, dtype=np.float32)
    picture[0, side // 2, 4:-4] = 0
    return picture


def test_each_change_of_print_alone():
    # the order of draws: two elastic ones, rotation, scale, two shifts, Perlin's noise, noise, blur
    no, names = (
        0.99,
        ["fine", "coarse", "turn", "scale", "down", "across", "perlin", "noise", "blur"],
    )
    picture = line()
    views = {
        name: sheet_views.sheet_view(picture, 0, 255, Script(*[no] * i, 0.0, *[no] * 9, seed=5))
        for i, name in enumerate(names)
    }
    same = sheet_views.sheet_view(picture, 0, 255, Script(*[no] * 9))
    np.testing.assert_allclose(same, picture, atol=1e-3)
    for name, out in views.items():
        assert out.shape == picture.shape and out.dtype == np.float32, name
        assert not np.array_equal(out, same), name
        assert out.min() >= -1e-3 and out.max() <= 255.01, name
    # a shift down moves the line as it is
    dark = views["down"][0].argmin(0)[6:-6]
    assert len(set(dark)) == 1 and 0 < abs(dark[0] - 20) <= 0.1 * 41 + 1
    assert (views["across"][0][20] < 200).sum() in range(31, 36)
    # a turn tilts it by 4 degrees at most
    rows = views["turn"][0].argmin(0)[8:-8]
    slope = np.polyfit(np.arange(len(rows)), rows, 1)[0]
    assert 0 < abs(np.degrees(np.arctan(slope))) < 4.5
    # noise only brightens on average, and blur keeps the mean
    assert views["blur"].mean() == pytest.approx(picture.mean(), abs=0.5)
    moved = views["fine"][0].argmin(0)[6:-6] - 20
    assert np.abs(moved).max() <= 2


def test_perlins_noise_is_zero_at_the_corners_of_its_cells_and_smooth():
    noise = sheet_views.perlin(40, 40, np.random.default_rng(3))
    assert noise.shape == (40, 40) and np.abs(noise).max() < 0.75 and noise[0, 0] == 0
    assert np.abs(np.diff(noise, axis=0)).max() < 0.4


def test_views_of_fields_and_of_others():
    rng = np.random.default_rng(0)
    image = make("image", size=32, channels=3)
    for dtype, scale in ((np.uint8, 1), (np.float32, 1 / 255)):
        value = (rng.integers(0, 255, (3, 32, 32)) * scale).astype(dtype)
        out = image.augment(value, "sheet", rng)
        assert out.dtype == dtype and out.shape == value.shape
    blank = np.zeros((3, 32, 32), dtype=np.float32)
    assert image.augment(blank, "sheet", rng) is blank
    sound = make("audio", rate=RATE)
    assert len(sound.augment(tone(300), "music", rng)) == RATE
    assert len(sound.augment(tone(300)[:0], "music", rng)) == 0
    assert make("text").known_view("music") == "strong" == image.known_view("music")
