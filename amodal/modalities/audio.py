"""Sound of any sampling rate, length and file format that libsndfile reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens, unknown
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import sound as _sound
from amodal.modalities.shared.base import (
    FILE,
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

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

LONGEST = 2**28
"""Samples of a value: a file that says 1 Hz in its header must not become 16,000 times as long."""
USUAL = 10.0
"""Seconds of a recording that are read unless `max_seconds` says otherwise."""
FEATURES = ("logmel", "waveform")
CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length


@dataclass(frozen=True)
class Audio(Modality):
    """A value is (t,) float32, one channel at `rate`, full scale ±1; at most the first
    `max_seconds` of a recording.

    rate: Hz; max_seconds: 0 for no limit; features: what a token is made of, patches of the
    "logmel" spectrogram or of the "waveform"; mels, window_ms, hop_ms: bands of the spectrogram,
    length of a frame, and from one frame to the next; patch: (frames, bands) of a token, or
    (samples,) of the waveform; (): (16, 16), or 40 ms; mean, std: of log-mel power or of samples;
    0: not measured.
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

    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"}
    )
    magic: ClassVar[tuple[bytes, ...]] = (
        b"fLaC",
        b"OggS",
        b"ID3",
        b"FORM",
        b".snd",
        b"\xff\xfb",
        b"\xff\xf3",
    )
    accepts: ClassVar[str] = "audio/*"
    layout: ClassVar[str] = "signal"
    is_sequence: ClassVar[bool] = True
    has_time: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = ("voice",)
    axis_names: ClassVar[Mapping[int, str]] = {0: "time", 1: "pitch"}

    def __post_init__(self):
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
            wanted = "(frames, bands)" if self.spectral else "(samples,)"
            raise AmodalError(f"audio.patch must be {wanted} for {self.features}, got {self.patch}")
        if self.spectral and self.mels % self.tile[1]:
            raise AmodalError(
                f"{self.mels} mel bands are no whole number of patches of {self.tile[1]} bands"
            )

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
    def infer(cls, samples: Sequence[Raw], **overrides) -> Audio:
        """Rate: the commonest, at most 16 kHz (speech and most sound; give a higher one for music
        or bats); length: that of the longest sample, at most 10 s; mean and std."""
        probe, rates, seconds = build(cls, overrides), [], []
        for raw in samples:
            try:
                # all that is asked below is whether it is longer
                wave, rate = _sound.read(raw, probe.rate, USUAL)
            except BadValue:
                continue
            rates.append(rate)
            seconds.append(len(wave) / rate)
        measured = {}
        if rates:
            measured["rate"] = min(16000, max(set(rates), key=rates.count))
            measured["max_seconds"] = min(USUAL, float(np.ceil(max(seconds) * 10) / 10))
        audio = build(cls, measured | overrides)
        waves = audio.collate(decodable(audio, samples))
        seen = audio.spectrogram(waves)[0] if audio.spectral else waves.flat
        mean, std = (
            tidy(seen.double().mean().item()),
            tidy(seen.double().std(correction=0).item() or 1.0),
        )
        return replace(
            audio,
            **{"mean": mean, "std": std}
            | {k: getattr(audio, k) for k in ("mean", "std") if k in overrides},
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(t,) float32 from a path, bytes, {"array", "sampling_rate"}, or an array (t,) or (t,
        channels) at `rate`."""
        wave, rate = _sound.read(raw, self.rate, self.max_seconds or np.inf)
        if rate != self.rate:
            if len(wave) / rate * self.rate > LONGEST:
                raise BadValue(
                    f"{len(wave):,} samples at {rate} Hz are too many at {self.rate} Hz; set "
                    "max_seconds"
                )
            wave = soxr.resample(wave, rate, self.rate, quality="HQ").astype(np.float32)
            if not len(wave):
                raise BadValue(f"too short for a sample at {self.rate} Hz")
        return wave[: round(self.max_seconds * self.rate)] if self.max_seconds else wave

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """weak: 80-100 % of the clip, ±3 dB; strong: 50-100 % at 90-110 % speed, ±6 dB, white noise
        10-40 dB below, and a stretch of time and a band of frequencies silenced (Park et al.,
        SpecAugment, 2019); local: 20-50 %, ±6 dB."""
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
        """Log-mel power (F, mels), not yet standardised, and the number of frames of each clip
        (N,)."""
        window = max(2, round(self.rate * self.window_ms / 1000))
        return _sound.log_mel(waves, self.rate, window, self.hop, self.mels)

    def scale(self) -> tuple[float, float]:
        """Mean and deviation; those of usual speech where they were not measured."""
        return (self.mean, self.std) if self.std else (-8.0, 4.0) if self.spectral else (0.0, 0.1)

    def patches(self, waves: Ragged) -> tuple[Tensor, Tensor]:
        """Standardised patches (T, values), time before frequency, NaN past the end of a clip, and
        their number (N,)."""
        mean, std = self.scale()
        if not self.spectral:
            return _ragged.patches(
                Ragged((waves.flat - mean) / std, waves.lengths), self.tile[0], torch.nan
            )
        frames, counts_N = self.spectrogram(waves)
        tiles, counts_N = _ragged.patches(
            Ragged((frames - mean) / std, counts_N), self.tile[0], torch.nan
        )
        bands = self.mels // self.tile[1]
        return tiles.unflatten(2, (bands, self.tile[1])).transpose(1, 2).flatten(2).flatten(
            0, 1
        ), counts_N * bands

    def tokenizer(self, width: int) -> AudioTokenizer:
        return AudioTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> AudioGraph:
        return AudioGraph(tokenizer)

    def targets(self, waves: Ragged) -> Tensor:
        """(T, values) standardised log-mel power (frames x bands) or samples, NaN past the end of a
        clip."""
        return self.patches(waves)[0]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, int(np.prod(self.tile)))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of values normalised within their patch (Huang et al., Audio-MAE,
        2022, section 3)."""
        from amodal.objectives.reconstruction import masked_mse

        return masked_mse(prediction, target, normalise=target.shape[1] > 1)

    def show(self, value: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram, low frequencies at the bottom."""
        return _draw.heat(self.spectrogram(self.collate([value]))[0].T.numpy())

    def describe(self, value: np.ndarray) -> str:
        return f"{len(value) / self.rate:.3g} s at {self.rate} Hz, peak {np.abs(value).max():.2g}"

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        seen = _sound.summary(raws)
        return f"{seen}, read at {self.rate:,} Hz" if seen else ""

    def sound(self, value: np.ndarray) -> tuple[np.ndarray, int]:
        return value, self.rate

    def attributes(self) -> dict[str, Attribute]:
        return {
            "seconds": Attribute("number", lambda value: len(value) / self.rate),
            "loudness": Attribute("number", _loudness),
        }

    def json_schema(self, limits: Limits) -> Schema:
        taken = ", ".join(_sound.FORMATS)
        return FILE | {"description": f"the bytes of a recording ({taken}, or .npy)"}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return _sound.bounded(raw, limits, self.rate, self.max_seconds)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """A token's length each."""
        return np.arange(len(value)) // self.shortest

    def deviation(self, value: np.ndarray) -> np.ndarray:
        """Of this clip: how loud it is."""
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


class AudioTokenizer(nn.Module):
    """A linear map of each patch of the spectrogram (Gong et al., AST, 2021) or of the waveform."""

    def __init__(self, audio: Audio, width: int):
        super().__init__()
        self.audio = audio
        self.project = nn.Linear(int(np.prod(audio.tile)), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions (time, frequency, 0) in patches. What is past the end of a clip counts as mean
        sound."""
        patches, counts = self.audio.patches(column.values)
        bands = self.audio.mels // self.audio.tile[1] if self.audio.spectral else 1
        step = _ragged.steps(counts)
        position = torch.stack([step // bands, step % bands, torch.zeros_like(step)], 1).float()
        return Tokens.of(
            self.project(patches.nan_to_num()), column.rows, counts, position, name, size
        )


class AudioGraph(nn.Module):
    """Dense form of `AudioTokenizer`."""

    inputs = {
        "samples": "(N, samples) float32: one channel at the field's rate, full scale ±1; anything past the end",
        "lengths": "(N,) int64: samples of each clip, at least 1",
    }
    axes = ({0: "batch", 1: "samples"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.audio, self.project = tokenizer.audio, tokenizer.project
        self.bands = self.audio.mels // self.audio.tile[1] if self.audio.spectral else 1
        if self.audio.spectral:
            # the Fourier transform as a matrix: every runtime multiplies matrices, few have a
            # transform of any length
            window = max(2, round(self.audio.rate * self.audio.window_ms / 1000))
            hann = torch.hann_window(window, dtype=torch.float64)
            fourier = torch.fft.rfft(torch.diag(hann / hann.square().sum().sqrt()))
            self.register_buffer("real", fourier.real.float())
            self.register_buffer("imaginary", fourier.imag.float())
            self.register_buffer(
                "filters", _sound.mel_filters(self.audio.rate, fourier.shape[1], self.audio.mels)
            )

    def forward(self, samples: Tensor, lengths: Tensor) -> _dense.Tokenised:
        mean, std = self.audio.scale()
        there, tile = _dense.within(samples, lengths), self.audio.tile
        if not self.audio.spectral:
            patches_NLp = _dense.cut(torch.where(there, (samples - mean) / std, 0.0), tile[0], 0.0)
            return (
                self.project(patches_NLp),
                _dense.line(patches_NLp),
                _dense.present(patches_NLp, lengths, tile[0]),
            )
        counts = _dense.pieces(lengths, self.audio.hop)
        frames_NFm = (self._log_mel(torch.where(there, samples, 0.0)) - mean) / std
        frames_NFm = torch.where(_dense.within(frames_NFm, counts).unsqueeze(2), frames_NFm, 0.0)
        tiles = (
            _dense.cut(frames_NFm, tile[0], 0.0).unflatten(3, (self.bands, tile[1])).transpose(2, 3)
        )
        x_NLD = self.project(tiles.flatten(3)).flatten(1, 2)
        step = torch.arange(x_NLD.shape[1], device=samples.device)
        position = torch.stack(
            [step // self.bands, step % self.bands, torch.zeros_like(step)], 1
        ).float()
        there = step // self.bands < _dense.pieces(counts, tile[0]).unsqueeze(1)
        return x_NLD, position, there

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(N, frames, mels), a frame every `hop` samples, as
        `amodal.modalities.shared.sound.log_mel`."""
        window, hop = len(self.real), self.audio.hop
        starts = torch.arange((samples.shape[1] + hop - 1) // hop, device=samples.device) * hop
        at = starts.unsqueeze(1) + torch.arange(window, device=samples.device)
        frames = nn.functional.pad(samples, (0, window + hop))[:, at]
        power = (frames @ self.real).square() + (frames @ self.imaginary).square()
        return (power @ self.filters).clamp(min=_sound.FLOOR).log()

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        unit = self.audio.shortest // 4 + 1
        return [
            rng.normal(0, 0.1, k * unit + 1).astype(np.float32)
            for k in _dense.lengths_of(n, length)
        ]


def _loudness(value: np.ndarray) -> float:
    """In decibels of full scale."""
    return float(20 * np.log10(max(np.sqrt(np.square(value).mean()), 1e-6)))


def _at_speed(wave: np.ndarray, speed: float, least: int) -> np.ndarray:
    """Faster and higher, or slower and lower, by linear interpolation."""
    length = max(least, round(len(wave) / speed))
    return np.interp(np.linspace(0, len(wave) - 1, length), np.arange(len(wave)), wave).astype(
        np.float32
    )


def _masked(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stretch of up to a fifth of the time and a band of up to a fifth of the frequencies,
    silenced."""
    spectrum = np.fft.rfft(wave)
    spectrum[_ragged.crop(len(spectrum), 0, 0.2, rng, least=0)] = 0
    out = np.fft.irfft(spectrum, n=len(wave)).astype(np.float32)
    out[_ragged.crop(len(out), 0, 0.2, rng, least=0)] = 0
    return out


def _noisy(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    level = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(10, 40) / 20)
    return wave + np.float32(level) * rng.standard_normal(len(wave), dtype=np.float32)
