"""Sound files, and log-mel spectrograms."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.regular_file import regular
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared.base import BadValue, Raw, format_range
from amodal.modalities.shared.files import is_numpy, load_numpy, read_bytes, unwrap
from amodal.modalities.shared.requests import NUMPY, Limits, TooLarge, array_of, file_of

FLOOR = 1e-7
"""Power below which all is silence: -70 dB of full scale, under the noise of nearly any microphone.
"""

MAX_SAMPLES = 2**29
"""Samples of all channels that a file may have: 1.5 hours of 48 kHz stereo, 2 GiB. Some formats
pack silence 5,000 times smaller."""

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU")
"""Accepted formats of untrusted files, by libsndfile's names."""
RATES = (100, 1_000_000)  # Hz
MAX_UNTRUSTED_SAMPLES = 64_000_000
"""Of all channels of an untrusted recording."""

CHUNK_FRAMES = 2048
"""Frames that are transformed at a time. They fit a CPU's cache: three times as fast as all."""


def read(raw: Raw, rate: int, seconds: float = np.inf) -> tuple[np.ndarray, int]:
    """Samples of one channel, and their rate.

    Args:
        raw: a file, its bytes, {"array": ..., "sampling_rate": ...}, or an array at `rate`.
        rate: of an array, in Hz.
        seconds: maximum length.

    Returns:
        (t,) float32, and Hz.

    Raises:
        BadValue: it is no sound, damaged, or too long.
    """
    raw = unwrap(raw)
    if isinstance(raw, dict):
        if "array" not in raw or "sampling_rate" not in raw:
            raise BadValue(
                f'a dict with {", ".join(map(str, raw)) or "nothing"}: expected "array" and '
                '"sampling_rate"'
            )
        rate = raw["sampling_rate"]
        raw = cast(Raw, raw["array"])
    if isinstance(raw, bytes) and is_numpy(raw):
        raw = load_numpy(raw)
    if isinstance(raw, (Path, str, bytes)):
        samples, rate = _from_file(raw, seconds)
    elif isinstance(raw, (np.ndarray, list, tuple)):
        samples = _from_array(raw)
    else:
        raise BadValue(
            f"a {type(raw).__name__} is not sound: expected a path, bytes, an array, or array and "
            "sampling_rate"
        )
    if not isinstance(rate, (int, float, np.number)) or not 1 <= rate <= 1e7:
        raise BadValue(f"a sampling rate of {rate} Hz")
    if not math.isinf(seconds):
        samples = samples[: math.ceil(seconds * rate)]
    if not len(samples) or not np.isfinite(samples).all():
        bad = len(samples) - int(np.isfinite(samples).sum())
        raise BadValue(f"{bad} of {len(samples)} samples are not finite" if bad else "no samples")
    return samples, int(rate)


def _from_array(raw: Any) -> np.ndarray:
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"not an array of samples: {error}") from None
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise BadValue(
            f"an array of shape {array.shape} and type {array.dtype} is not sound: expected (t,) "
            "or (t, channels)"
        )
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 128 - 1
    elif array.dtype in (np.int16, np.int32):
        array = array.astype(np.float32) / (np.iinfo(array.dtype).max + 1)
    array = array.astype(np.float32)
    return array if array.ndim == 1 else array.mean(int(np.argmin(array.shape)), dtype=np.float32)


def _from_file(raw: Path | str | bytes, seconds: float) -> tuple[np.ndarray, int]:
    head, size = _file_head(raw)
    try:
        # By its number and not by its name: after an ending such as .au libsndfile takes whatever
        # is in the file for sound.
        with SeekableBytes(raw) if isinstance(raw, bytes) else open(raw, "rb") as stream:
            with soundfile.SoundFile(
                stream if isinstance(raw, bytes) else stream.fileno(), closefd=False
            ) as file:
                return _samples(file, head, size, seconds)
    except BadValue:
        raise
    except OSError as error:
        raise BadValue(f"cannot read {str(raw)[:200]!r}: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise BadValue(
            f"damaged sound, or none that libsndfile reads: {error.error_string}"
        ) from None
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise BadValue(f"damaged sound: {error}") from error


def _samples(
    file: soundfile.SoundFile, head: bytes, size: int, seconds: float
) -> tuple[np.ndarray, int]:
    declared_frames, rate, channels = file.frames, file.samplerate, file.channels
    declared_frames = (
        declared_frames if math.isinf(seconds) else min(declared_frames, math.ceil(seconds * rate))
    )
    if declared_frames * channels > MAX_SAMPLES:
        raise BadValue(
            f"{declared_frames:,} samples of {channels} channels are too many; set max_seconds"
        )
    samples = file.read(declared_frames, dtype="float32")
    if len(samples) < 0.99 * declared_frames:  # what MP3 promises is a frame or two out
        raise BadValue(f"truncated: {len(samples)} of {declared_frames} samples")
    # libsndfile trusts the file's size more than its header, and returns the rest of a truncated
    # file without a word.
    if (declared_size := _declared_size(head)) > size:
        raise BadValue(f"truncated: {size} of {declared_size} bytes")
    return samples if channels == 1 else samples.mean(1, dtype=np.float32), rate


class SeekableBytes(io.BytesIO):
    """Bytes that libsndfile may seek before the start of, as it does in some damaged files.

    An exception there would be printed, not raised.
    """

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _file_head(raw: Path | str | bytes) -> tuple[bytes, int]:
    """The first twelve bytes of a file and its size. Raises BadValue if there is none."""
    if isinstance(raw, bytes) or not Path(raw).is_file():
        raw = read_bytes(raw)  # which says what is wrong with a path
        return raw[:12], len(raw)
    with open(raw, "rb") as file:
        head, size = file.read(12), os.fstat(file.fileno()).st_size
    if not size:
        raise BadValue("empty file")
    return head, size


def _declared_size(head: bytes) -> int:
    """The size in bytes that the header of a WAV, AIFF or AU file declares; 0 if none does.

    Written to a pipe they declare 0 or the maximum, which means nothing.
    """
    start, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    if head[:4] == b"RIFF":
        start, size = 8, int.from_bytes(head[4:8], "little")
    elif head[:4] == b"FORM":
        start, size = 8, start
    elif head[:4] != b".snd":
        return 0
    # The padding byte after an odd length is often left out.
    return start + size // 2 * 2 if 0 < size < 0x7F000000 else 0


MAGIC = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"\xff\xfb", b"\xff\xf3")
"""How files of sound begin."""
BACKBONES = ("voice", "transformers", "resnet1d", "vgg", "gru", "lstm")
"""Libraries of backbones that read sound."""
SPACINGS = ("mel", "log")
Band = tuple[str, float, float]
"""How bands are spaced, and the lowest and highest of their frequencies in Hz, 0 by default."""
MEL: Band = ("mel", 0.0, 0.0)


@cache
def mel_filters(rate: int, bins: int, mels: int, band: Band = MEL) -> Tensor:
    """Triangular filters, each of sum 1: the output of a band is its mean power.

    No triangle is narrower than the distance of two bins, so none is empty.

    Args:
        rate: in Hz.
        bins: of a real Fourier transform, 0 … rate / 2.
        mels: number of bands, equally spaced in mel, or in octaves ("log").
        band: see `Band`.

    Returns:
        (bins, mels) float32
    """
    spacing, lowest, highest = band
    hertz = np.linspace(0, rate / 2, bins)
    # 20 Hz by convention, where hearing ends (Kaldi's default, too). Slow signals have a large part
    # of their band below it: from rates of 4 kHz down it is a hundredth of the highest frequency.
    ends = lowest or min(20.0, rate / 200), highest or rate / 2
    if spacing == "log":
        edge = np.geomspace(*ends, mels + 2)
    else:  # mel = 2595 log10(1 + f / 700)
        low, high = (float(2595 * np.log10(1 + f / 700)) for f in ends)
        edge = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    width = np.maximum(np.diff(edge), hertz[1])
    distance = hertz[:, None] - edge[1:-1]
    weight = np.maximum(0, np.minimum(1 + distance / width[:-1], 1 - distance / width[1:]))
    return torch.tensor(weight / weight.sum(0), dtype=torch.float32)


def log_mel(
    waves: Ragged, rate: int, window: int, hop: int, mels: int, band: Band = MEL
) -> tuple[Tensor, Tensor]:
    """Natural logarithm of the power in each band.

    Args:
        waves: N clips.
        rate: in Hz.
        window: samples of a frame.
        hop: samples between frames.
        mels: number of bands.
        band: see `Band`.

    Returns:
        (F, mels), one row every `hop` samples of each clip, and rows a clip (N,).
    """
    windows, start_F, left_F, counts_N = _ragged.frames(waves, window, hop)
    device = windows.device
    if not len(start_F):  # the transform refuses an empty batch
        return windows.new_zeros(0, mels), counts_N
    hann, index = torch.hann_window(window, device=device), torch.arange(window, device=device)
    # noise of variance 1 gets power 1 in every bin, whatever the length of the window
    hann = hann / hann.square().sum().sqrt()
    filters = mel_filters(rate, window // 2 + 1, mels, band).to(device)
    bands = []
    with torch.autocast(
        device.type, enabled=False
    ):  # power spans more decades than bfloat16 has digits
        for start, left in zip(start_F.split(CHUNK_FRAMES), left_F.split(CHUNK_FRAMES)):
            inside = index < left[:, None]  # the next clip begins where this one ends
            spectrum = torch.fft.rfft(windows[start] * (hann * inside))
            bands.append((spectrum.real.square() + spectrum.imag.square()) @ filters)
    return torch.cat(bands).clamp(min=FLOOR).log(), counts_N


def summary(raws: Sequence[Raw]) -> str:
    """Lengths and rates of recordings, in a few words; "" where none can be opened."""
    rates: Counter[int] = Counter()
    seconds: list[float] = []
    for raw in raws:
        try:
            opened = io.BytesIO(raw) if isinstance(raw, bytes) else regular(str(raw))
            about = soundfile.info(opened)
        except Exception:  # not a file of sound, or a damaged one
            continue
        rates[about.samplerate] += 1
        seconds.append(about.duration)
    common = "/".join(f"{rate:,}" for rate, _ in rates.most_common(3))
    return f"{format_range(seconds, 's', '.1f')} at {common} Hz" if seconds else ""


def check_untrusted(raw: Any, limits: Limits, rate: int, seconds: float) -> bytes | np.ndarray:
    """Check an untrusted recording by its header.

    Args:
        raw: bytes.
        limits: of the cost.
        rate: of an array, in Hz.
        seconds: that are read of a recording, 0 for all.

    Raises:
        TooLarge: it is longer than `limits` allow.
        BadValue: no recording, or one of a format that is not accepted.
    """
    data = file_of(raw)
    if data.startswith(NUMPY):
        array = array_of(data)
        if array.size and max(array.shape) > limits.sound * rate:
            raise TooLarge(
                f"{max(array.shape):,} samples; at most {limits.sound:g} seconds are read"
            )
        return array
    try:
        with soundfile.SoundFile(SeekableBytes(data)) as file:
            frames, rate, channels = file.frames, file.samplerate, file.channels
            form = file.format
    except soundfile.LibsndfileError:
        raise BadValue(
            f"damaged, or no sound in an accepted format: {', '.join(FORMATS)}, or .npy"
        ) from None
    except Exception as error:
        raise BadValue(f"damaged sound: {error}") from None
    if form not in FORMATS:
        accepted = ", ".join(FORMATS)
        raise BadValue(f"a sound file of the format {form}; accepted are {accepted}, or .npy")
    if not RATES[0] <= rate <= RATES[1]:
        raise BadValue(f"a sampling rate of {rate} Hz; {RATES[0]} to {RATES[1]:,} are read")
    most = seconds or limits.sound
    if frames > limits.sound * rate or min(frames, most * rate) * channels > MAX_UNTRUSTED_SAMPLES:
        raise TooLarge(
            f"{frames / rate:,.0f} seconds of {channels} channels; at most {limits.sound:g} are "
            "read"
        )
    return data
