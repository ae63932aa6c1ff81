"""Tokens of `Audio`: a linear map of each patch of the spectrogram or waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import sound as _sound

if TYPE_CHECKING:
    from amodal.modalities.audio import Audio


class AudioTokenizer(nn.Module):
    """A linear map of each patch of the spectrogram (Gong et al., AST, 2021) or of the waveform.

    Args:
        audio: the modality.
        width: D of the tokens.
    """

    def __init__(self, audio: Audio, width: int):
        super().__init__()
        self.audio = audio
        self.project = nn.Linear(int(np.prod(audio.tile)), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of clips, at the positions (time, frequency, 0) in patches.

        Past the end of a clip is mean sound.
        """
        patches, counts = self.audio.patches(cast(Ragged, column.values))
        bands = self.audio.mels // self.audio.tile[1] if self.audio.spectral else 1
        step = _ragged.index_in_value(counts)
        position = torch.stack([step // bands, step % bands, torch.zeros_like(step)], 1).float()
        x_TD = self.project(patches.nan_to_num())
        return Tokens.of(x_TD, column.rows, counts, position, name, size)


class AudioGraph(nn.Module):
    """Dense form of `AudioTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "samples": "(N, samples) float32: one channel at the field's rate, full scale ±1; anything "
        "past the end",
        "lengths": "(N,) int64: samples of each clip, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "samples"}, {0: "batch"})
    real: Tensor
    imaginary: Tensor
    filters: Tensor

    def __init__(self, tokenizer: AudioTokenizer):
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
            bins, audio = fourier.shape[1], self.audio
            filters = _sound.mel_filters(audio.rate, bins, audio.mels, audio.band)
            self.register_buffer("filters", filters)

    def forward(self, samples: Tensor, lengths: Tensor) -> _dense.Tokenised:
        mean, std = self.audio.scale()
        inside, tile = _dense.length_mask(samples, lengths), self.audio.tile
        if not self.audio.spectral:
            samples = torch.where(inside, (samples - mean) / std, 0.0)
            patches_NLp = _dense.patchify(samples, tile[0], 0.0)
            mask_NL = _dense.patch_mask(patches_NLp, lengths, tile[0])
            return self.project(patches_NLp), _dense.positions_1d(patches_NLp), mask_NL
        counts = _dense.num_patches(lengths, self.audio.hop)
        frames_NFm = (self._log_mel(torch.where(inside, samples, 0.0)) - mean) / std
        inside = _dense.length_mask(frames_NFm, counts).unsqueeze(2)
        tiles = _dense.patchify(torch.where(inside, frames_NFm, 0.0), tile[0], 0.0)
        tiles = tiles.unflatten(3, (self.bands, tile[1])).transpose(2, 3)
        x_NLD = self.project(tiles.flatten(3)).flatten(1, 2)
        step = torch.arange(x_NLD.shape[1], device=samples.device)
        position = torch.stack([step // self.bands, step % self.bands, torch.zeros_like(step)], 1)
        mask_NL = step // self.bands < _dense.num_patches(counts, tile[0]).unsqueeze(1)
        return x_NLD, position.float(), mask_NL

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(N, frames, mels), one frame every `hop` samples, as `shared.sound.log_mel`."""
        window, hop = len(self.real), self.audio.hop
        starts = torch.arange((samples.shape[1] + hop - 1) // hop, device=samples.device) * hop
        index = starts.unsqueeze(1) + torch.arange(window, device=samples.device)
        frames = nn.functional.pad(samples, (0, window + hop))[:, index]
        power = (frames @ self.real).square() + (frames @ self.imaginary).square()
        return (power @ self.filters).clamp(min=_sound.FLOOR).log()

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n clips of noise of different lengths."""
        unit = self.audio.min_samples // 4 + 1
        return [
            rng.normal(0, 0.1, k * unit + 1).astype(np.float32)
            for k in _dense.example_lengths(n, length)
        ]
