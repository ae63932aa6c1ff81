"""Sound of any sampling rate, length and file format that libsndfile reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens, unknown
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import sound as _sound
from amodal.modalities.shared.base import BadValue, Raw, at_most, build, check_view, decodable, tidy

LONGEST = 2**28
"""Samples of a value: a file that says 1 Hz in its header must not become 16,000 times as long."""
USUAL = 10.0
"""Seconds of a recording that are read unless `max_seconds` says otherwise."""
FEATURES = ("logmel", "waveform")
CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length


@dataclass(frozen=True)
class Audio:
    """A value is (t,) float32, one channel at `rate`, full scale ±1; at most the first `max_seconds` of a recording.

    rate: Hz; max_seconds: 0 for no limit;
    features: what a token is made of, patches of the "logmel" spectrogram or of the "waveform";
    mels, window_ms, hop_ms: bands of the spectrogram, length of a frame, and from one frame to the next;
    patch: (frames, bands) of a token, or (samples,) of the waveform; (): (16, 16), or 40 ms;
    mean, std: of log-mel power or of samples; 0: not measured.
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

    suffixes: ClassVar[frozenset[str]] = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"})

    def __post_init__(self):
        if self.features not in FEATURES:
            raise unknown("kind of audio features", self.features, FEATURES)
        if self.rate < 1 or self.mels < 1 or min(self.window_ms, self.hop_ms) <= 0 or self.max_seconds < 0:
            raise AmodalError("audio needs a positive rate, mels, window_ms and hop_ms, and max_seconds of 0 or more")
        at_most(
            "audio",
            {"rate": (self.rate, 10**7), "mels": (self.mels, 4096), "patch": (max(self.patch, default=0), 2**20)},
        )
        at_most("audio", {name: (getattr(self, name), 60_000) for name in ("window_ms", "hop_ms")})
        if self.patch and (len(self.patch) != (2 if self.spectral else 1) or min(self.patch) < 1):
            wanted = "(frames, bands)" if self.spectral else "(samples,)"
            raise AmodalError(f"audio.patch must be {wanted} for {self.features}, got {self.patch}")
        if self.spectral and self.mels % self.tile[1]:
            raise AmodalError(f"{self.mels} mel bands are no whole number of patches of {self.tile[1]} bands")

    @property
    def spectral(self) -> bool:
        return self.features == "logmel"

    @property
    def tile(self) -> tuple[int, ...]:
        """`patch`, or what () stands for."""
        usual = (16, next(b for b in range(min(16, self.mels), 0, -1) if self.mels % b == 0))
        return self.patch or (usual if self.spectral else (max(1, self.rate // 25),))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.rate * self.hop_ms / 1000))

    @property
    def shortest(self) -> int:
        """Samples in one token: no augmentation leaves less, where there was as much."""
        return self.tile[0] * (self.hop if self.spectral else 1)

    @classmethod
    def infer(cls, samples: Sequence[Raw], **given) -> Audio:
        """Rate: the commonest, at most 16 kHz (speech and most sound; give a higher one for music or bats); length:
        that of the longest sample, at most 10 s; mean and std."""
        probe, rates, seconds = build(cls, given), [], []
        for raw in samples:
            try:
                wave, rate = _sound.read(raw, probe.rate, USUAL)  # all that is asked below is whether it is longer
            except BadValue:
                continue
            rates.append(rate)
            seconds.append(len(wave) / rate)
        measured = {}
        if rates:
            measured["rate"] = min(16000, max(set(rates), key=rates.count))
            measured["max_seconds"] = min(USUAL, float(np.ceil(max(seconds) * 10) / 10))
        audio = build(cls, measured | given)
        waves = audio.collate(decodable(audio, samples))
        seen = audio.spectrogram(waves)[0] if audio.spectral else waves.flat
        mean, std = tidy(seen.double().mean().item()), tidy(seen.double().std(correction=0).item() or 1.0)
        return replace(
            audio, **{"mean": mean, "std": std} | {k: getattr(audio, k) for k in ("mean", "std") if k in given}
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(t,) float32 from a path, bytes, {"array", "sampling_rate"}, or an array (t,) or (t, channels) at `rate`."""
        wave, rate = _sound.read(raw, self.rate, self.max_seconds or np.inf)
        if rate != self.rate:
            if len(wave) / rate * self.rate > LONGEST:
                raise BadValue(f"{len(wave):,} samples at {rate} Hz are too many at {self.rate} Hz; set max_seconds")
            wave = soxr.resample(wave, rate, self.rate, quality="HQ").astype(np.float32)
            if not len(wave):
                raise BadValue(f"too short for a sample at {self.rate} Hz")
        return wave[: round(self.max_seconds * self.rate)] if self.max_seconds else wave

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """weak: 80-100 % of the clip, ±3 dB; strong: 50-100 % at 90-110 % speed, ±6 dB, white noise 10-40 dB below, and
        a stretch of time and a band of frequencies silenced (Park et al., SpecAugment, 2019); local: 20-50 %, ±6 dB."""
        check_view(view)
        if view == "plain":
            return value
        decibels = rng.uniform(-1, 1) * (3 if view == "weak" else 6)
        out = value[_ragged.crop(len(value), *CROPS[view], rng, least=self.shortest)]
        if view == "strong":
            out = _at_speed(out, rng.uniform(0.9, 1.1), least=min(len(out), self.shortest))
            out = _noisy(_masked(out, rng), rng)
        return (out * np.float32(10 ** (decibels / 20))).astype(np.float32)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of lengths,) float32."""
        return _ragged.ragged(values, np.zeros(0, dtype=np.float32))

    def spectrogram(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """Log-mel power (F, mels), not yet standardised, and the number of frames of each clip (N,)."""
        window = max(2, round(self.rate * self.window_ms / 1000))
        return _sound.log_mel(waves, self.rate, window, self.hop, self.mels)

    def scale(self) -> tuple[float, float]:
        """Mean and deviation; those of usual speech where they were not measured."""
        return (self.mean, self.std) if self.std else (-8.0, 4.0) if self.spectral else (0.0, 0.1)

    def patches(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """Standardised patches (T, values), time before frequency, NaN past the end of a clip, and their number
        (N,)."""
        mean, std = self.scale()
        if not self.spectral:
            return _ragged.patches(Ragged((waves.flat - mean) / std, waves.lengths), self.tile[0], torch.nan)
        frames, counts_N = self.spectrogram(waves)
        tiles, counts_N = _ragged.patches(Ragged((frames - mean) / std, counts_N), self.tile[0], torch.nan)
        bands = self.mels // self.tile[1]
        return tiles.unflatten(2, (bands, self.tile[1])).transpose(1, 2).flatten(2).flatten(0, 1), counts_N * bands

    def tokenizer(self, width: int) -> AudioTokenizer:
        return AudioTokenizer(self, width)

    def targets(self, waves: Ragged) -> Tensor:
        """(T, values) standardised log-mel power (frames x bands) or samples, NaN past the end of a clip."""
        return self.patches(waves)[0]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, int(np.prod(self.tile)))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of values normalised within their patch (Huang et al., Audio-MAE, 2022, section 3)."""
        from amodal.objectives.reconstruction import masked_mse

        return masked_mse(prediction, target, normalise=target.shape[1] > 1)

    def show(self, value: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram, low frequencies at the bottom."""
        return _draw.heat(self.spectrogram(self.collate([value]))[0].T.numpy())

    def describe(self, value: np.ndarray) -> str:
        return f"{len(value) / self.rate:.3g} s at {self.rate} Hz, peak {np.abs(value).max():.2g}"


class AudioTokenizer(nn.Module):
    """A linear map of each patch of the spectrogram (Gong et al., AST, 2021) or of the waveform."""

    def __init__(self, audio: Audio, width: int):
        super().__init__()
        self.audio = audio
        self.project = nn.Linear(int(np.prod(audio.tile)), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions (time, frequency, 0) in patches. What is past the end of a clip counts as mean sound."""
        patches, counts = self.audio.patches(column.values)
        bands = self.audio.mels // self.audio.tile[1] if self.audio.spectral else 1
        step = _ragged.steps(counts)
        position = torch.stack([step // bands, step % bands, torch.zeros_like(step)], 1).float()
        return Tokens.of(self.project(patches.nan_to_num()), column.rows, counts, position, name, size)


def _at_speed(wave: np.ndarray, speed: float, least: int) -> np.ndarray:
    """Faster and higher, or slower and lower, by linear interpolation."""
    length = max(least, round(len(wave) / speed))
    return np.interp(np.linspace(0, len(wave) - 1, length), np.arange(len(wave)), wave).astype(np.float32)


def _masked(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stretch of up to a fifth of the time and a band of up to a fifth of the frequencies, silenced."""
    spectrum = np.fft.rfft(wave)
    spectrum[_ragged.crop(len(spectrum), 0, 0.2, rng, least=0)] = 0
    out = np.fft.irfft(spectrum, n=len(wave)).astype(np.float32)
    out[_ragged.crop(len(out), 0, 0.2, rng, least=0)] = 0
    return out


def _noisy(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    level = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(10, 40) / 20)
    return wave + np.float32(level) * rng.standard_normal(len(wave), dtype=np.float32)
