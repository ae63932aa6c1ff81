"""Sound of any sampling rate, length and file format that libsndfile reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared import sound as _sound
from amodal.modalities.shared import sound_views as _sound_views
from amodal.modalities.shared.base import (
    FILE,
    VIEWS,
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
)
from amodal.modalities.shared.cells import tidy
from amodal.modalities.shared.tokenizers.audio import AudioGraph, AudioTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

MAX_SAMPLES = 2**28
"""Samples of a value: a file whose header has 1 Hz must not become 16,000 times as long."""
DEFAULT_SECONDS = 10.0
"""Maximum of `max_seconds` that `infer` sets."""
FEATURES = ("logmel", "waveform")
MUSIC = "music"
CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length


@dataclass(frozen=True)
class Audio(Modality):
    """Sound. A value is (t,) float32, one channel at `rate`, full scale ±1.

    Attributes:
        rate: in Hz.
        max_seconds: of a recording; 0 for no limit.
        features: of tokens, patches of the "logmel" spectrogram or of the "waveform".
        mels: bands of the spectrogram.
        spacing: of the bands, equally in "mel" or in octaves ("log").
        low_hz, high_hz: ends of the bands; 0: 20 Hz, or a hundredth of the highest frequency where
            that is less, and half the rate.
        window_ms: length of a frame.
        hop_ms: from one frame to the next.
        patch: (frames, bands) of a token, or (samples,) of the waveform; (): (16, 16), or 40 ms.
        mean, std: of log-mel power or of samples; std 0: not measured.
    """

    rate: int = 16000
    max_seconds: float = 10.0
    features: str = "logmel"
    mels: int = 64
    window_ms: float = 25.0
    hop_ms: float = 10.0
    patch: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 0.0
    spacing: str = "mel"
    low_hz: float = 0.0
    high_hz: float = 0.0

    largest: ClassVar[float] = 1e12  # the power of a frame is a sum of squares in float32
    simple_name: ClassVar[str] = "log-mel statistics"
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"}
    )
    magic: ClassVar[tuple[bytes, ...]] = _sound.MAGIC
    accepts: ClassVar[str] = "audio/*"
    layout: ClassVar[str] = "signal"
    is_sequence: ClassVar[bool] = True
    has_time: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = _sound.BACKBONES
    packaged: ClassVar[tuple[str, ...]] = ("whisper_base", "whisper_tiny_en", "resemblyzer")
    axis_names: ClassVar[Mapping[int, str]] = {0: "time", 1: "pitch"}
    views: ClassVar[tuple[str, ...]] = (*VIEWS, MUSIC)

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise unknown("kind of audio features", self.features, FEATURES)
        if (
            self.rate < 1
            or self.mels < 1
            or min(self.window_ms, self.hop_ms) <= 0
            or self.max_seconds < 0
        ):
            raise AmodalError(
                "audio needs a positive rate, mels, window_ms and hop_ms, and max_seconds of 0 or "
                "more"
            )
        if self.spacing not in _sound.SPACINGS:
            raise unknown("spacing of bands", self.spacing, _sound.SPACINGS)
        highest = self.high_hz or self.rate / 2
        if not 0 <= self.low_hz < highest <= self.rate / 2:
            raise AmodalError(
                f"audio needs low_hz < high_hz <= half the rate, {self.rate / 2:g}; got "
                f"{self.low_hz:g} and {self.high_hz:g}"
            )
        at_most(
            "audio",
            {
                "rate": (self.rate, 10**7),
                "mels": (self.mels, 4096),
                "patch": (max(self.patch, default=0), 2**20),
            },
        )
        at_most("audio", {name: (getattr(self, name), 60_000) for name in ("window_ms", "hop_ms")})
        if self.patch and (len(self.patch) != (2 if self.spectral else 1) or min(self.patch) < 1):
            expected = "(frames, bands)" if self.spectral else "(samples,)"
            raise AmodalError(
                f"audio.patch must be {expected} for {self.features}, got {self.patch}"
            )
        if self.spectral and self.mels % self.tile[1]:
            raise AmodalError(
                f"{self.mels} mel bands are no whole number of patches of {self.tile[1]} bands"
            )

    @property
    def spectral(self) -> bool:
        """Whether tokens are of the spectrogram."""
        return self.features == "logmel"

    @property
    def tile(self) -> tuple[int, ...]:
        """`patch`, or the default for ()."""
        default = (16, next(b for b in range(min(16, self.mels), 0, -1) if self.mels % b == 0))
        return self.patch or (default if self.spectral else (max(1, self.rate // 25),))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.rate * self.hop_ms / 1000))

    @property
    def min_samples(self) -> int:
        """Samples in one token: no augmentation leaves less, if the value has as many."""
        return self.tile[0] * (self.hop if self.spectral else 1)

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Audio:
        """See `Modality.infer`.

        rate: the most frequent, at most 16 kHz (speech and most sound; set a higher one for music
        or bats). max_seconds: that of the longest sample, at most 10. mean and std: measured.
        """
        probe, rates, seconds = build(cls, overrides), [], []
        for raw in samples:
            try:
                # all that is asked below is whether it is longer
                wave, rate = _sound.read(raw, probe.rate, DEFAULT_SECONDS)
            except BadValue:
                continue
            rates.append(rate)
            seconds.append(len(wave) / rate)
        measured: dict[str, Any] = {}
        if rates:
            measured["rate"] = min(16000, max(set(rates), key=rates.count))
            measured["max_seconds"] = min(DEFAULT_SECONDS, float(np.ceil(max(seconds) * 10) / 10))
        audio = build(cls, measured | overrides)
        waves = audio.collate(decodable(audio, samples))
        values = audio.spectrogram(waves)[0] if audio.spectral else waves.flat
        mean = tidy(values.double().mean().item())
        std = tidy(values.double().std(correction=0).item() or 1.0)
        return replace(
            audio,
            mean=audio.mean if "mean" in overrides else mean,
            std=audio.std if "std" in overrides else std,
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(t,) float32 from a path, bytes, {"array", "sampling_rate"}, or an array at `rate`.

        An array is (t,) or (t, channels).
        """
        wave, rate = _sound.read(raw, self.rate, self.max_seconds or np.inf)
        if rate != self.rate:
            if len(wave) / rate * self.rate > MAX_SAMPLES:
                raise BadValue(
                    f"{len(wave):,} samples at {rate} Hz are too many at {self.rate} Hz; set "
                    "max_seconds"
                )
            wave = soxr.resample(wave, rate, self.rate, quality="HQ").astype(np.float32)
            if not len(wave):
                raise BadValue(f"too short for a sample at {self.rate} Hz")
        return wave[: round(self.max_seconds * self.rate)] if self.max_seconds else wave

    def place(self, index: tuple[int, ...]) -> str:
        return f"the sample at {index[0] / self.rate:.3f} s"

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: 80-100 % of the clip, ±3 dB. strong: 50-100 % at 90-110 % speed, ±6 dB, white noise
        10-40 dB below, one interval of time and one band of frequencies masked (Park et al.,
        SpecAugment, 2019). local: 20-50 %, ±6 dB. music: UCASR's, which leaves pitch and length,
        see `sound_views`.
        """
        check_view(view, self.views)
        if view == "plain":
            return value
        if view == MUSIC:
            return _sound_views.music_view(value, self.rate, rng)
        decibels = rng.uniform(-1, 1) * (3 if view == "weak" else 6)
        out = value[_ragged.random_crop(len(value), *CROPS[view], rng, least=self.min_samples)]
        if view == "strong":
            out = _change_speed(out, rng.uniform(0.9, 1.1), least=min(len(out), self.min_samples))
            out = _add_noise(_mask_time_and_frequency(out, rng), rng)
        return (out * np.float32(10 ** (decibels / 20))).astype(np.float32)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) float32."""
        return _ragged.pack(values, np.zeros(0, dtype=np.float32))

    def spectrogram(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """Log-mel power (F, mels), not standardised, and frames a clip (N,)."""
        window = max(2, round(self.rate * self.window_ms / 1000))
        return _sound.log_mel(waves, self.rate, window, self.hop, self.mels, self.band)

    @property
    def band(self) -> _sound.Band:
        """How the bands are spaced, and their ends."""
        return self.spacing, self.low_hz, self.high_hz

    def scale(self) -> tuple[float, float]:
        """Mean and deviation; those of typical speech where they were not measured."""
        return (self.mean, self.std) if self.std else (-8.0, 4.0) if self.spectral else (0.0, 0.1)

    def patches(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """Standardised patches (T, values), time before frequency, and their number (N,).

        NaN past the end of a clip.
        """
        mean, std = self.scale()
        if not self.spectral:
            return _ragged.patches(
                Ragged((waves.flat - mean) / std, waves.lengths), self.tile[0], torch.nan
            )
        frames, counts_N = self.spectrogram(waves)
        tiles, counts_N = _ragged.patches(
            Ragged((frames - mean) / std, counts_N), self.tile[0], torch.nan
        )
        # (T, f, mels) -> (T, f, bands, b) -> (T, bands, f * b) -> (T * bands, f * b)
        bands = self.mels // self.tile[1]
        return tiles.unflatten(2, (bands, self.tile[1])).transpose(1, 2).flatten(2).flatten(
            0, 1
        ), counts_N * bands

    @property
    def token_steps(self) -> int:
        """Steps of a token: frames of the spectrogram, or samples."""
        return self.tile[0]

    @property
    def max_frames(self) -> int:
        """Frames of the longest recording; 0 without a limit."""
        return math.ceil(self.max_seconds * self.rate / self.hop)

    @property
    def step_width(self) -> int:
        """Numbers of a step of `steps`."""
        return self.mels if self.spectral else 1

    def steps(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """(T, mels) standardised frames or (T, 1) samples, and their number (N,)."""
        patch = (1, self.mels) if self.spectral else (1,)
        values, counts_N = replace(self, patch=patch).patches(waves)
        return values.nan_to_num(), counts_N

    def tokenizer(self, width: int) -> AudioTokenizer:
        return AudioTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> AudioGraph:
        return AudioGraph(cast(AudioTokenizer, tokenizer))

    def targets(self, waves: Ragged) -> Tensor:
        """(T, values) standardised log-mel power (frames x bands) or samples.

        NaN past the end of a clip.
        """
        return self.patches(waves)[0]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, int(np.prod(self.tile)))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of values normalised within their patch.

        Huang et al., Audio-MAE, 2022, section 3.
        """
        from amodal.objectives.reconstruction import masked_mse

        return masked_mse(prediction, target, normalise=target.shape[1] > 1)

    def show(self, value: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram, low frequencies at the bottom."""
        return _draw.heatmap(self.spectrogram(self.collate([value]))[0].T.numpy())

    def describe(self, value: np.ndarray) -> str:
        return f"{len(value) / self.rate:.3g} s at {self.rate} Hz, peak {np.abs(value).max():.2g}"

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        summary = _sound.summary(raws)
        return f"{summary}, read at {self.rate:,} Hz" if summary else ""

    def sound(self, value: np.ndarray) -> tuple[np.ndarray, int]:
        return value, self.rate

    def attributes(self) -> dict[str, Attribute]:
        return {
            "seconds": Attribute("number", lambda value: len(value) / self.rate),
            "loudness": Attribute("number", _loudness),
        }

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """Log duration, energy, log-mel bands, cepstral coefficients; see `simple.sounds`."""
        return _simple.sounds(self.decode_all(raws), self.rate)

    def json_schema(self, limits: Limits) -> Schema:
        accepted = ", ".join(_sound.FORMATS)
        return FILE | {"description": f"the bytes of a recording ({accepted}, or .npy)"}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return _sound.check_untrusted(raw, limits, self.rate, self.max_seconds)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """A token's length each."""
        return np.arange(len(value)) // self.min_samples

    def deviation(self, value: np.ndarray) -> np.ndarray:
        """Root mean square of this clip."""
        return (
            np.sqrt(np.nanmean(np.square(value.astype(np.float64)))) if value.size else np.zeros(1)
        )

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """Silence in their place."""
        return np.where(hit, 0, value).astype(value.dtype)

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Audio, Callable[[], np.ndarray]]:
        rate, frames = 16000, 16 * math.ceil(tokens / 4)  # of 16 frames and 16 of 64 bands
        samples = round(rate * (0.025 + 0.01 * (frames - 1)))
        audio = cls(rate=rate, max_seconds=samples / rate)
        return audio, lambda: rng.normal(0, 0.1, samples).astype(np.float32)


def _loudness(value: np.ndarray) -> float:
    """In decibels of full scale."""
    return float(20 * np.log10(max(np.sqrt(np.square(value).mean()), 1e-6)))


def _change_speed(wave: np.ndarray, speed: float, least: int) -> np.ndarray:
    """Faster and higher, or slower and lower, by linear interpolation."""
    length = max(least, round(len(wave) / speed))
    times = np.linspace(0, len(wave) - 1, length)
    resampled: np.ndarray = np.interp(times, np.arange(len(wave)), wave)
    return resampled.astype(np.float32)


def _mask_time_and_frequency(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to a fifth of the time and up to a fifth of the frequencies, set to 0."""
    # time comes last: to mask a band is a filter, which would ring into the silence
    spectrum = np.fft.rfft(wave)
    spectrum[_ragged.random_crop(len(spectrum), 0, 0.2, rng, least=0)] = 0
    out: np.ndarray = np.fft.irfft(spectrum, n=len(wave)).astype(np.float32)
    out[_ragged.random_crop(len(out), 0, 0.2, rng, least=0)] = 0
    return out


def _add_noise(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    level = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(10, 40) / 20)
    noise = np.float32(level) * rng.standard_normal(len(wave), dtype=np.float32)
    noisy: np.ndarray = wave + noise
    return noisy
