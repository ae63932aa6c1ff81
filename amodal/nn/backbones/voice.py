"""Voices: an LSTM over mel frames, trained to tell speakers apart.

GE2E, Wan et al., ICASSP 2018, arXiv:1710.10467, with the layers, front end and windows of
Resemblyzer, so that its weights fit. Its removal of long silences is left out.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, relu

from amodal.core import AmodalError, Ragged, unknown
from amodal.nn.backbones.body import Body, LoadReport, existing

RATE, WINDOW, HOP, MELS, WIDTH, FRAMES = 16000, 400, 160, 40, 256, 160
STEP = round(RATE / 1.3 / HOP)
"""Frames from one window of 1.6 s to the next: 1.3 windows a second."""
COVERED = 0.75
"""Share of the last window that must be sound, unless it is the only one."""
LOUD = 10 ** (-30 / 20)
"""Root mean square that quieter clips are brought to."""


class SoundField(Protocol):
    """What the body asks of a field of sound: samples a second."""

    @property
    def rate(self) -> int: ...


def build(rest: str, modality: SoundField, load: bool) -> tuple[VoiceBody, str, LoadReport | None]:
    """The model.

    Args:
        rest: resemblyzer[@WEIGHTS], a safetensors file.
        modality: Of the field.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: For another name, and for another sampling rate.
    """
    name, _, weights = rest.partition("@")
    if name != "resemblyzer":
        raise unknown("voice model", name, ["resemblyzer"])
    if modality.rate != RATE:
        raise AmodalError(
            f"resemblyzer hears {RATE} Hz, and this field has {modality.rate} Hz: set rate = "
            f"{RATE} "
            "for it"
        )
    body, report = VoiceBody(), None
    if load and weights:
        from safetensors.torch import load_file

        state = load_file(existing(weights, "weights file"))
        report = LoadReport.of(weights, body.state_dict(), state)
        body.load_state_dict({n: state[n] for n in report.matched}, strict=False)
    return body, f"voice:{rest}", report


class VoiceBody(Body):
    """Waves at 16 kHz, full scale 1 -> a unit vector for each window of 1.6 s.

    Positions are in seconds.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(MELS, WIDTH, 3, batch_first=True), nn.Linear(WIDTH, WIDTH)

    def example(self) -> Ragged:
        """A second of silence."""
        return Ragged(torch.zeros(RATE), torch.tensor([RATE]))

    def forward(self, waves: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N waves (samples,) -> (T, 256), lengths (N,), positions (T, 3)."""
        windows: list[Tensor] = []
        starts: list[int] = []
        counts: list[int] = []
        for wave in waves.split():
            mels, first = mel_power(louder(wave)), window_starts(len(wave))
            mels = pad(mels, (0, 0, 0, max(first[-1] + FRAMES - len(mels), 0)))
            windows += [mels[i : i + FRAMES] for i in first]
            starts += first
            counts.append(len(first))
        _, (hidden, _) = self.lstm(torch.stack(windows).to(self.linear.weight.dtype))
        device = waves.flat.device
        seconds = (torch.tensor(starts, device=device) + FRAMES / 2) * (HOP / RATE)
        position = torch.stack([seconds, seconds * 0, seconds * 0], 1)
        return (
            normalize(relu(self.linear(hidden[-1])), dim=1),
            torch.tensor(counts, device=device),
            position,
        )


def louder(wave: Tensor) -> Tensor:
    """A wave (samples,), raised to the root mean square `LOUD` if it is quieter."""
    level = wave.square().mean().sqrt()
    return wave * (LOUD / level).clamp(min=1) if level > 0 else wave


def window_starts(samples: int) -> list[int]:
    """Frames at which windows begin.

    They cover the clip; a last one that is mostly silence is left out.
    """
    frames = -(-(samples + 1) // HOP)
    starts = list(range(0, max(1, frames - FRAMES + STEP + 1), STEP))
    covered = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    return starts[:-1] if covered < COVERED and len(starts) > 1 else starts


def mel_power(wave_S: Tensor) -> Tensor:
    """(samples,) -> (frames, MELS) power in mel bands, no logarithm; frames at multiples of HOP."""
    hann = torch.hann_window(WINDOW, device=wave_S.device)
    bins = torch.stft(
        wave_S.float(),
        WINDOW,
        HOP,
        window=hann,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return (bins.real.square() + bins.imag.square()).T @ slaney_filters().to(wave_S.device)


@cache
def slaney_filters() -> Tensor:
    """(bins, MELS) triangles of area 2 / width in Hz, at equal distances in Slaney's mel.

    Slaney's mel is linear to 1 kHz, then logarithmic.
    """
    step, knee = 200 / 3, 1000.0
    rise = np.log(6.4) / 27
    top = knee / step + np.log(RATE / 2 / knee) / rise
    mel = np.linspace(0, top, MELS + 2)
    edge = np.where(mel < knee / step, mel * step, knee * np.exp(rise * (mel - knee / step)))
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    up, down = (hertz - edge[:-2]) / np.diff(edge)[:-1], (edge[2:] - hertz) / np.diff(edge)[1:]
    weight = np.maximum(0, np.minimum(up, down)) * (2 / (edge[2:] - edge[:-2]))
    return torch.tensor(weight, dtype=torch.float32)
