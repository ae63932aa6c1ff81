"""A strong view of music that leaves its pitch: the augmentations of UCASR, each with a chance.

Carvalho, Washuttl and Widmer 2023, arXiv:2309.12134, and the authors' configuration.
"""

from __future__ import annotations

import numpy as np

SHIFT, STRETCH, POLARITY, GAIN, NOISE, TIME, EQUALISER, BAND = (
    0.5,
    0.4,
    0.5,
    0.5,
    0.4,
    0.5,
    0.3,
    0.35,
)
"""How often each is done."""
MAX_SHIFT, SPEEDS, MAX_MASKED = 0.3, (0.5, 1.8), 0.2
"""Shares of the length that a shift and a mask take at most, and the range of speeds."""
DECIBELS, NOISE_DECIBELS = 12.0, (5.0, 40.0)
"""Of gains and of the equaliser's bands, at most; of noise below the signal."""
BANDS = (100.0, 250.0, 600.0, 1500.0, 3500.0, 8000.0)
"""Hz between the seven bands of the equaliser."""
WINDOW = 1024


def music_view(wave: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """An augmented clip of the same length.

    Args:
        wave: (t,) float32.
        rate: In Hz.
        rng: The only source of randomness.
    """
    if not len(wave):
        return wave
    out = wave
    if rng.random() < SHIFT:
        out = out[rng.integers(0, max(1, int(MAX_SHIFT * len(wave)))) :]
    if rng.random() < STRETCH:
        out = stretched(out, rng.uniform(*SPEEDS))
    out = np.pad(out[: len(wave)], (0, max(0, len(wave) - len(out))))
    if rng.random() < POLARITY:
        out = -out
    if rng.random() < GAIN:
        out = out * 10 ** (rng.uniform(-DECIBELS, DECIBELS) / 20)
    if rng.random() < NOISE:
        level = np.sqrt(np.mean(out**2)) * 10 ** (-rng.uniform(*NOISE_DECIBELS) / 20)
        out = out + level * rng.standard_normal(len(out))
    if rng.random() < EQUALISER:
        out = equalised(out, rate, rng.uniform(-DECIBELS, DECIBELS, len(BANDS) + 1))
    if rng.random() < BAND:
        out = without_band(out, rng)
    if rng.random() < TIME:
        length = int(rng.uniform(0.01, MAX_MASKED) * len(out))
        start = rng.integers(0, len(out) - length + 1)
        out = np.concatenate([out[:start], np.zeros(length), out[start + length :]])
    return out.astype(np.float32)


def stretched(wave: np.ndarray, speed: float) -> np.ndarray:
    """The same pitch at another speed, by a phase vocoder (Flanagan and Golden 1966).

    Args:
        wave: (t,).
        speed: Above 1 for a shorter clip.

    Returns:
        (about t / speed,).
    """
    hop, window = WINDOW // 4, np.hanning(WINDOW + 1)[:-1]
    padded = np.pad(wave, (0, max(0, WINDOW + hop - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    spectra = np.fft.rfft(frames * window, axis=1)
    # each frame that is made reads the magnitude between two, and turns on by their difference
    at = np.arange(0, len(spectra) - 1, speed)
    first, share = at.astype(int), (at % 1)[:, None]
    before, after = spectra[first], spectra[first + 1]
    expected = 2 * np.pi * hop * np.arange(spectra.shape[1]) / WINDOW
    turn = np.angle(after) - np.angle(before) - expected
    turn = expected + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    phase = np.angle(before[0]) + np.concatenate([np.zeros((1, len(expected))), turn[:-1]]).cumsum(
        0
    )
    magnitude = (1 - share) * np.abs(before) + share * np.abs(after)
    made = np.fft.irfft(magnitude * np.exp(1j * phase), n=WINDOW, axis=1) * window
    out = np.zeros((len(made) - 1) * hop + WINDOW)
    weight = np.zeros_like(out)
    for i, frame in enumerate(made):
        out[i * hop : i * hop + WINDOW] += frame
        weight[i * hop : i * hop + WINDOW] += window**2
    out /= np.maximum(weight, 1e-3)
    # the middle of a frame is where it was, divided by the speed
    start, length = round(WINDOW / 2 - WINDOW / 2 / speed), max(1, round(len(wave) / speed))
    out = np.pad(out[max(start, 0) :], (max(-start, 0), length))[:length]
    return out


def equalised(wave: np.ndarray, rate: int, decibels: np.ndarray) -> np.ndarray:
    """Louder or softer in seven bands of frequencies.

    Args:
        wave: (t,).
        rate: In Hz.
        decibels: (7,) gains.
    """
    spectrum = np.fft.rfft(wave)
    band = np.searchsorted(BANDS, np.fft.rfftfreq(len(wave), 1 / rate))
    out: np.ndarray = np.fft.irfft(spectrum * 10 ** (decibels[band] / 20), n=len(wave))
    return out


def without_band(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to a fifth of the frequencies set to 0, on a logarithmic axis."""
    spectrum = np.fft.rfft(wave)
    width = rng.uniform(0, MAX_MASKED)
    low = rng.uniform(0, 1 - width)
    first, last = (max(1, int(len(spectrum) ** share)) for share in (low, low + width))
    spectrum[first:last] = 0
    out: np.ndarray = np.fft.irfft(spectrum, n=len(wave))
    return out
