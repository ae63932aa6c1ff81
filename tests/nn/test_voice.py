"""The front end of the voice encoder against its definitions, and the encoder as a backbone."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities.audio import Audio
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.backbones.voice import (
    HOP,
    MELS,
    RATE,
    VoiceBody,
    louder,
    mel_power,
    slaney_filters,
    window_starts,
)

AUDIO = Audio(rate=16000, max_seconds=4.0)


def hertz(mel):
    """Slaney's scale, one number at a time."""
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))


def test_filters_are_slaneys_triangles_of_equal_area():
    top = 15 + 27 * math.log(8) / math.log(6.4)
    edges = [hertz(top * i / (MELS + 1)) for i in range(MELS + 2)]
    found = slaney_filters()
    for band in (0, 7, 20, MELS - 1):
        low, peak, high = edges[band : band + 3]
        for k in range(201):
            f = k * RATE / 400
            height = (f - low) / (peak - low) if f <= peak else (high - f) / (high - peak)
            assert found[k, band].item() == pytest.approx(
                max(0.0, height) * 2 / (high - low), abs=1e-7
            )


def test_frames_are_centred_and_padded_with_silence():
    wave = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = mel_power(wave)
    assert found.shape == (1000 // HOP + 1, MELS)
    padded = np.pad(wave.numpy().astype(np.float64), 200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for t in (0, 3):
        spectrum = np.abs(np.fft.rfft(padded[t * HOP : t * HOP + 400] * window)) ** 2
        np.testing.assert_allclose(found[t].numpy(), spectrum @ slaney_filters().numpy(), rtol=1e-3)


@pytest.mark.parametrize(
    "samples, starts",
    [(8000, [0]), (25600, [0]), (16000 * 3, [0, 77, 154]), (16000 * 2, [0, 77]), (31000, [0])],
)
def test_windows_cover_the_clip_and_one_of_silence_is_left_out(samples, starts):
    assert window_starts(samples) == starts


def test_quiet_clips_are_made_louder_and_loud_ones_stay():
    quiet, loud = torch.full((100,), 0.001), torch.full((100,), 0.5)
    assert louder(quiet)[0].item() == pytest.approx(10**-1.5) and torch.equal(louder(loud), loud)
    assert torch.equal(louder(torch.zeros(5)), torch.zeros(5))


def test_it_is_a_backbone_whose_clips_do_not_depend_on_their_neighbours(tmp_path):
    torch.manual_seed(0)
    save_file(VoiceBody().state_dict(), tmp_path / "voice.safetensors")
    tower = backbone(f"voice:resemblyzer@{tmp_path / 'voice.safetensors'}", AUDIO, 8)
    waves = [torch.randn(n) * 0.1 for n in (9000, 60000)]
    both = tower(Column(Ragged.of(waves), torch.arange(2)), "sound", 3)
    assert both.lengths().tolist() == [1, len(window_starts(60000)), 0] and tower.report.share == 1
    alone = tower(Column(Ragged.of(waves[1:]), torch.tensor([1])), "sound", 3)
    torch.testing.assert_close(both.x[1:], alone.x)
    assert (
        len(
            tower(
                Column(
                    Ragged.of(waves)[torch.zeros(0, dtype=torch.int64)],
                    torch.zeros(0, dtype=torch.int64),
                ),
                "s",
                2,
            )
        )
        == 0
    )


def test_another_rate_or_model_is_refused():
    with pytest.raises(AmodalError, match="rate = 16000"):
        backbone("voice:resemblyzer@x", Audio(rate=8000), 8)
    with pytest.raises(AmodalError, match="resemblyzer"):
        backbone("voice:resembliser@x", AUDIO, 8)
