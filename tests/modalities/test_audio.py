"""Sound of any rate, length and format, and files that are cut short."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import BadValue, kind, make
from amodal.modalities.shared.sound import mel_filters

from .makers import wav

AUDIO = make("audio")
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "PCM_24"),
    ("FLAC", None),
    ("OGG", "VORBIS"),
    ("MP3", None),
    ("AIFF", None),
    ("AU", None),
]


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(
        np.float32
    )


def frequency(wave: np.ndarray, rate: int = 16000) -> float:
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave))


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_formats(format, subtype, tmp_path):
    data = wav(tone(22050), 22050, format, subtype)
    (tmp_path / "sound").write_bytes(data)
    for raw in (data, tmp_path / "sound", str(tmp_path / "sound")):
        value = AUDIO.decode(raw)
        assert value.dtype == np.float32 and abs(len(value) - 16000) < 1200
        assert abs(frequency(value) - 440) < 3 and 0.4 < np.abs(value).max() < 0.6


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 44100, 48000, 96000])
def test_rates(rate):
    value = AUDIO.decode(wav(tone(rate), rate))
    assert len(value) == 16000 and abs(frequency(value) - 440) < 2
    np.testing.assert_allclose(
        value, AUDIO.decode({"array": tone(rate), "sampling_rate": rate}), atol=1e-4
    )
    np.testing.assert_allclose(value[500:-500], tone(16000)[500:-500], atol=2e-3)


def test_arrays_and_channels():
    wave = tone(16000)
    stereo = np.stack([wave, np.zeros_like(wave)], 1)
    for raw in (
        stereo,
        stereo.T,
        wav(stereo, 16000, subtype="FLOAT"),
        {"bytes": wav(stereo, 16000, subtype="FLOAT"), "path": None},
    ):
        np.testing.assert_allclose(AUDIO.decode(raw), wave / 2, atol=1e-6)
    np.testing.assert_array_equal(AUDIO.decode(wave), wave)
    np.testing.assert_allclose(AUDIO.decode((wave * 32767).astype(np.int16)), wave, atol=1e-4)
    np.testing.assert_allclose(AUDIO.decode(wave.tolist()), wave)


def test_only_the_beginning_of_a_long_recording():
    short = make("audio", max_seconds=0.5)
    for raw in (wav(tone(44100, 3), 44100), tone(16000, 3)):
        assert len(short.decode(raw)) == 8000
    assert len(make("audio", max_seconds=0).decode(tone(16000, 3))) == 48000


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated(format, subtype, share):
    data = wav(np.random.default_rng(0).standard_normal(40000) * 0.1, 16000, format, subtype)
    if (format, subtype) == (
        "OGG",
        "VORBIS",
    ):  # Ogg promises no length: what is there is read, or nothing
        pytest.skip("Ogg is a stream")
    with pytest.raises(BadValue, match="truncated|damaged"):
        AUDIO.decode(data[: int(len(data) * share)])


def test_a_pipe_promises_nothing():
    data = bytearray(wav(tone(16000), 16000))
    for length in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        data[4:8] = length
        assert len(AUDIO.decode(bytes(data))) == 16000


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (np.array([0.1, np.nan, np.inf]), "2 of 3 samples are not finite"),
        (wav(np.array([0.1, np.nan]), 16000, subtype="FLOAT"), "1 of 2 samples are not finite"),
        (np.zeros(0), "no samples"), (wav(np.zeros(0), 16000), "no samples"), ([], "no samples"),
        (np.zeros((2, 3, 4)), "shape"), (np.array(["a"]), "type"), (7, "a int is not sound"),
        ([[1, 2], [3]], "not an array"), (b"not a sound", "damaged sound"),
        (np.random.default_rng(0).bytes(500), "damaged"),
        ({"array": [0.1], "sampling_rate": 0}, "sampling rate of 0"), ({"array": [0.1]}, '"array" and "sampling_rate"'),
        ({"array": [0.1], "sampling_rate": None}, "sampling rate of None"),
        ({"array": [0.1], "sampling_rate": 9e6}, "too short"),
    ],
    ids=map(str, range(14)),
)  # fmt: skip
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        AUDIO.decode(raw)


def test_spectrogram_agrees_with_a_slow_one():
    """Every frame computed on its own, clip by clip."""
    waves = [
        np.random.default_rng(i).standard_normal(n).astype(np.float32)
        for i, n in enumerate((1, 159, 160, 161, 1000, 2400))
    ]
    spectrogram, counts = AUDIO.spectrogram(AUDIO.collate(waves))
    hann = np.hanning(401)[:-1]
    filters = mel_filters(16000, 201, 64).numpy()
    rows = []
    for wave in waves:
        for start in range(0, len(wave), 160):
            frame = np.zeros(400)
            part = wave[start : start + 400]
            frame[: len(part)] = part
            power = np.abs(np.fft.rfft(frame * hann)) ** 2 / (hann**2).sum()
            rows.append(np.log(np.maximum(power @ filters, 1e-7)))
    assert counts.tolist() == [1, 1, 1, 2, 7, 15]
    np.testing.assert_allclose(spectrogram.numpy(), rows, atol=1e-3)


@pytest.mark.parametrize(
    ("rate", "window", "mels"),
    [(16000, 400, 64), (4000, 100, 64), (48000, 1200, 128), (1000, 25, 64)],
)
def test_no_mel_band_is_empty(rate, window, mels):
    filters = mel_filters(rate, window // 2 + 1, mels)
    assert filters.isfinite().all() and (filters >= 0).all()
    torch.testing.assert_close(filters.sum(0), torch.ones(mels))
    assert (filters.argmax(0).diff() >= 0).all()


def test_log_mel_keeps_its_precision_under_autocast():
    waves = AUDIO.collate([tone(16000)])
    with torch.autocast("cpu", torch.bfloat16):
        low = AUDIO.spectrogram(waves)[0]
    torch.testing.assert_close(low, AUDIO.spectrogram(waves)[0])


@pytest.mark.parametrize("spacing", ["mel", "log"])
def test_bands_have_ends_and_equal_steps(spacing):
    rate, bins, mels, low, high = 22050, 4097, 24, 100.0, 6000.0
    filters = mel_filters(rate, bins, mels, (spacing, low, high)).numpy()
    hertz = np.linspace(0, rate / 2, bins)
    inside = filters.sum(1) > 0
    assert hertz[inside].min() > low and hertz[inside].max() < high
    step = {"mel": lambda f: np.log10(1 + f / 700), "log": np.log}[spacing]
    steps = np.diff(step(hertz[filters.argmax(0)]))
    assert np.allclose(steps, steps.mean(), rtol=0.1)
    np.testing.assert_allclose(filters.sum(0), 1, rtol=1e-5)


def test_bands_of_a_field_are_those_of_its_spectrogram():
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    narrow = make("audio", rate=8000, mels=16, low_hz=50.0, high_hz=500.0, spacing="log")
    every = make("audio", rate=8000, mels=16)
    power = torch.fft.rfft(torch.from_numpy(wave[:200]) * torch.hann_window(200))
    power = power.abs().square() / torch.hann_window(200).square().sum()
    for audio, band in ((narrow, ("log", 50.0, 500.0)), (every, ("mel", 0.0, 0.0))):
        expected = (power @ mel_filters(8000, 101, 16, band)).log()
        found = audio.spectrogram(audio.collate([wave]))[0][0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing": "logs"}, "Did you mean log"),
        ({"low_hz": 9000.0}, "half the rate, 8000; got 9000 and 0"),
        ({"high_hz": 9000.0}, "half the rate, 8000; got 0 and 9000"),
        ({"low_hz": 500.0, "high_hz": 400.0}, "got 500 and 400"),
        ({"low_hz": -1.0}, "got -1 and 0"),
    ],
)
def test_bands_that_cannot_be(options, words):
    with pytest.raises(AmodalError, match=words):
        make("audio", **options)


def test_a_tone_lights_its_band():
    spectrogram = AUDIO.spectrogram(
        AUDIO.collate([tone(16000, hertz=200), tone(16000, hertz=4000)])
    )[0]
    low, high = spectrogram[50].argmax(), spectrogram[150].argmax()
    assert low < 8 and high > 40
    assert spectrogram[50, 60] == pytest.approx(np.log(1e-7), abs=0.5)


def test_token_order():
    """Time before frequency; what is past the end of the clip is no target."""
    audio = make("audio", patch=[16, 16], mean=0, std=1)
    values = audio.collate([tone(16000, 0.2), tone(16000, 0.01)])
    tokens = audio.tokenizer(8)(Column(values, torch.arange(2)), "audio", 2)
    assert tokens.position.tolist() == [[t, f, 0] for t in (0, 1) for f in range(4)] + [
        [0, f, 0] for f in range(4)
    ]
    targets = audio.targets(values).unflatten(1, (16, 16))
    spectrogram = audio.spectrogram(values)[0]
    torch.testing.assert_close(targets[1], spectrogram[:16, 16:32])
    torch.testing.assert_close(targets[6, :4], spectrogram[16:20, 32:48])
    assert targets[6, 4:].isnan().all()
    waveform = make("audio", features="waveform", patch=[300], std=0.1)
    torch.testing.assert_close(waveform.targets(values)[:10].flatten(), values.flat[:3000] / 0.1)
    assert waveform.targets(values)[10, 200:].isnan().all()


def test_views():
    value = tone(16000, 2.0)
    for seed in range(10):
        lengths = {
            v: len(AUDIO.augment(value, v, np.random.default_rng(seed))) / len(value)
            for v in ("weak", "strong", "local")
        }
        assert (
            0.79 < lengths["weak"] <= 1
            and 0.45 < lengths["strong"] < 1.12
            and 0.19 < lengths["local"] < 0.51
        )
    for seed in range(5):
        assert (
            len(AUDIO.augment(value[:3000], "local", np.random.default_rng(seed)))
            == AUDIO.min_samples
            == 2560
        )
        assert len(AUDIO.augment(value[:1], "strong", np.random.default_rng(seed))) == 1
        assert np.isfinite(
            AUDIO.augment(np.zeros(5000, np.float32), "strong", np.random.default_rng(seed))
        ).all()


def test_infer():
    audio = kind("audio").infer(
        [wav(tone(8000, 2), 8000), wav(tone(8000, 0.5), 8000), wav(tone(22050), 22050)]
    )
    assert (audio.rate, audio.max_seconds, audio.features) == (8000, 2.0, "logmel")
    assert audio.std > 0 and audio.mean < 0
    assert kind("audio").infer([wav(tone(44100), 44100)]).rate == 16000
    assert kind("audio").infer([wav(tone(44100), 44100)], rate=32000, mean=-3.0).mean == -3.0
    waveform = kind("audio").infer([tone(16000)], features="waveform")
    assert waveform.std == pytest.approx(0.5 / 2**0.5, abs=0.01)


def test_parameters_are_checked():
    with pytest.raises(AmodalError, match="Did you mean logmel"):
        make("audio", features="log_mel")
    with pytest.raises(AmodalError, match="no whole number of patches"):
        make("audio", mels=64, patch=[16, 15])
    with pytest.raises(AmodalError, match=r"\(samples,\) for waveform"):
        make("audio", features="waveform", patch=[16, 16])
    assert make("audio", mels=80).tile == (16, 16) and make("audio", mels=7).tile == (16, 7)


def test_no_clip_reaches_into_the_next():
    loud, quiet = np.ones(333, np.float32), np.zeros(777, np.float32)
    both = AUDIO.spectrogram(AUDIO.collate([quiet, loud, quiet]))[0]
    assert (both[:5] == both[0, 0]).all() and (both[-5:] == both[0, 0]).all()
    assert isinstance(AUDIO.collate([quiet]), Ragged)
