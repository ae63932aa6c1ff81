"""Simple features of values: what needs no network, as the yardstick of what does.

Each function of this file makes groups of columns of some decoded values. `fitted` brings the
groups to one scale, which it measures on training values, so that cosines of rows make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from amodal.core import Ragged
from amodal.modalities.shared.base import DecodedValues, NoSimpleFeatures, Raw

Array = npt.NDArray[np.float64]
Groups = Callable[[Sequence[Raw]], list[Array]]
"""n >= 1 raw values -> groups of columns, each (n, F)."""

MAX_FITTED = 2000
"""Training values that means and deviations are measured on."""
CHUNK = 256
"""Values that are decoded together."""
CLIP = 10.0
"""Deviations."""

SIDE, CELLS, ORIENTATIONS = 12, 4, 8
LEVELS = np.linspace(-1.5, 1.5, 7)
"""Of a histogram of colours, in deviations."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LAGS = (1, 2, 4, 8)
FREQUENCIES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)
"""Between bands of a spectrum, in cycles a step."""
MFCC = 13
MAX_KMERS = 512
"""Different k-mers of one length."""


def sample(values: Sequence[Raw], most: int = MAX_FITTED) -> Sequence[Raw]:
    """At most so many of some values, evenly spaced."""
    if len(values) <= most:
        return values
    chosen = [int(i) for i in np.linspace(0, len(values) - 1, most).round()]
    return values.take(chosen) if isinstance(values, DecodedValues) else [values[i] for i in chosen]


def fitted(groups: Groups, train: Sequence[Raw], *, by_column: bool = True) -> Scaled:
    """Features of one scale: every group of columns counts the same in a cosine.

    Args:
        groups: Makes the columns.
        train: Raw values that means and deviations are measured on.
        by_column: Divide each column by its deviation, else a group by that of all its columns.

    Raises:
        NoSimpleFeatures: There is no value to fit on.
        BadValue: A value cannot be decoded.
    """
    chosen = sample(train)
    if not len(chosen):
        raise NoSimpleFeatures("there is no value to fit simple features on")
    measured = _chunked(groups, chosen)
    means = [group.mean(0) for group in measured]
    scales = []
    for group in measured:
        variance = group.var(0) if by_column else np.full(group.shape[1], group.var(0).mean())
        # what hardly differs is rounding, which must not become a feature
        deviation = np.maximum(np.sqrt(variance), 1e-4 * np.abs(group.mean(0)))
        scales.append(np.where(deviation > 1e-9, deviation, 1.0) * max(group.shape[1], 1) ** 0.5)
    widths = np.concatenate([np.full(len(m), max(len(m), 1) ** 0.5) for m in means])
    return Scaled(groups, np.concatenate(means), np.concatenate(scales), widths)


@dataclass(frozen=True)
class Scaled:
    """Raw values -> (n, F) columns of one scale.

    Args:
        groups: Makes the columns.
        mean: (F,) of the training values.
        scale: (F,) they are divided by.
        widths: (F,) roots of the number of columns in the group of each.
    """

    groups: Groups
    mean: Array
    scale: Array
    widths: Array

    @property
    def state(self) -> dict[str, Any]:
        """See `FittedFeatures`."""
        return {"mean": self.mean, "scale": self.scale, "widths": self.widths}

    def __call__(self, raws: Sequence[Raw]) -> npt.NDArray[np.float32]:
        """(n, F) float32, finite."""
        if not len(raws):
            return np.zeros((0, len(self.mean)), dtype=np.float32)
        rows = (np.concatenate(_chunked(self.groups, raws), 1) - self.mean) / self.scale
        limit = CLIP / self.widths
        clipped: npt.NDArray[np.float32] = np.clip(
            np.nan_to_num(rows, nan=0.0), -limit, limit
        ).astype(np.float32)
        return clipped


def _chunked(groups: Groups, raws: Sequence[Raw]) -> list[Array]:
    parts = []
    for start in range(0, len(raws), CHUNK):
        parts.append(groups(raws[start : start + CHUNK]))
    return [
        np.nan_to_num(np.concatenate(same).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        for same in zip(*parts)
    ]


def pixels(x_NCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[Array]:
    """Small pictures, histograms of colours, and of the orientations of gradients in each cell.

    Args:
        x_NCHW: Pictures of one size.
        mean: Of each channel.
        std: Of each channel.
    """
    x = x_NCHW.float().nan_to_num()
    scaled = (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    small = adaptive_avg_pool2d(scaled, min(SIDE, x.shape[-1])).flatten(1)
    levels = torch.bucketize(scaled, torch.from_numpy(LEVELS).float())
    colours = torch.stack([(levels == i).float().mean((2, 3)) for i in range(len(LEVELS) + 1)], 2)
    grey = scaled.mean(1)
    down, across = torch.gradient(grey, dim=(1, 2)) if min(grey.shape[1:]) > 1 else (0 * grey,) * 2
    # modulo a half turn: an edge is the same from dark to bright and back
    angle = torch.atan2(down, across) % torch.pi / torch.pi
    orientation = (angle * ORIENTATIONS).long().clamp(0, ORIENTATIONS - 1)
    strength = (down.square() + across.square()).sqrt()
    votes = one_hot(orientation, ORIENTATIONS).permute(0, 3, 1, 2) * strength[:, None]
    edges = adaptive_avg_pool2d(votes, min(CELLS, x.shape[-1])).flatten(1)
    edges = (edges / edges.sum(1, keepdim=True).clamp_min(1e-9)).sqrt()
    # products of square roots of frequencies are Bhattacharyya's coefficient
    return [part.double().numpy() for part in (small, colours.flatten(1).sqrt(), edges)]


def sounds(waves: Sequence[npt.NDArray[np.float32]], rate: int) -> list[Array]:
    """Log duration; energy; mean and deviation of log-mel bands and of cepstral coefficients.

    Args:
        waves: Clips of one channel.
        rate: In Hz.
    """
    from scipy.fft import dct

    from amodal.modalities.shared.sound import log_mel

    window, hop = max(rate // 40, 8), max(rate // 100, 4)
    mels = min(40, max(window // 4, 2))
    bands, cepstra, energy = [], [], []
    for wave in waves:
        clip = np.nan_to_num(np.asarray(wave, dtype=np.float32))
        frames, _ = log_mel(Ragged.of([torch.from_numpy(clip)]), rate, window, hop, mels)
        mel = frames.double().numpy() if len(frames) else np.zeros((1, mels))
        mfcc = dct(mel, axis=1, norm="ortho")[:, :MFCC]
        bands.append(np.concatenate([mel.mean(0), mel.std(0)]))
        cepstra.append(np.concatenate([mfcc.mean(0), mfcc.std(0)]))
        loud = np.log(np.exp(mel).mean(1) + 1e-10)
        power = float(np.square(clip.astype(np.float64)).mean()) if len(clip) else 0.0
        energy.append([np.log(power + 1e-10), loud.std(), loud.max(), loud.min()])
    duration = [[np.log(max(len(wave), 1) / rate)] for wave in waves]
    return [np.array(part, dtype=np.float64) for part in (duration, energy, bands, cepstra)]


def series(values: Sequence[npt.NDArray[np.float32]]) -> list[Array]:
    """Log length; for each channel moments, quantiles, changes, autocorrelations and a spectrum.

    Args:
        values: Each (t, C), NaN where a sample is missing.
    """
    length = [[np.log(max(len(value), 1))] for value in values]
    rows = [
        np.concatenate([_channel(channel) for channel in value.T.astype(np.float64)])
        for value in values
    ]
    return [np.array(length, dtype=np.float64), np.array(rows, dtype=np.float64)]


def _channel(samples: Array) -> Array:
    present = samples[np.isfinite(samples)]
    absent = 1 - len(present) / max(len(samples), 1)
    x = present if len(present) else np.zeros(1)
    centred = x - x.mean()
    variance = np.square(centred).mean()
    lags = [
        (centred[lag:] * centred[:-lag]).mean() / variance if len(x) > lag and variance > 0 else 0.0
        for lag in LAGS
    ]
    steps = np.abs(np.diff(x)).mean() if len(x) > 1 else 0.0
    crossings = np.mean(np.diff(np.signbit(centred).astype(int)) != 0) if len(x) > 1 else 0.0
    power = np.square(np.abs(np.fft.rfft(centred)))
    band = np.digitize(np.fft.rfftfreq(len(x)), FREQUENCIES)
    energies = np.bincount(band, power, minlength=len(FREQUENCIES) + 1)
    # 40 dB below the whole a band counts as silent, chosen by convention: logarithms of less are of
    # rounding, and would outweigh the bands that hold the signal
    shares = np.log(energies / max(energies.sum(), 1e-12) + 1e-4)
    return np.concatenate(
        [
            [x.mean(), np.sqrt(variance)],
            np.quantile(x, QUANTILES),
            lags,
            [steps, crossings],
            shares,
            [absent],
        ]
    )


Decode = Callable[[Sequence[Raw]], Sequence[npt.NDArray[np.float32]]]
"""Raw values -> what a modality makes of each."""


def table(decode_all: Decode, train: Sequence[Raw], sizes: Sequence[int]) -> Cells:
    """Standardised numbers, flags of those that are missing, and one-hot categories.

    A missing number counts as the training mean. Columns in which all training values are there
    have no flag.

    Args:
        decode_all: Raw values -> rows, each (C,), NaN where a cell is missing.
        train: Training values.
        sizes: Codes of each column, 0 where it is numeric.
    """
    x = np.stack(decode_all(train)).astype(np.float64)
    numeric = np.array([not size for size in sizes])
    present = np.isfinite(x)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, x, 0).sum(0) / count
    std = np.sqrt(np.square(np.where(present, x - mean, 0)).sum(0) / count)
    std = np.where(std > 1e-9, std, 1.0)
    flagged = numeric & ~present.all(0)
    return Cells(decode_all, mean, std, flagged, np.array(sizes, dtype=np.int64))


@dataclass(frozen=True)
class Cells:
    """Raw values -> (n, F) standardised numbers, flags of missing ones and one-hot categories.

    Args:
        decode_all: Raw values -> rows, each (C,), NaN where a cell is missing.
        mean: (C,) of the training rows.
        std: (C,) theirs.
        flagged: (C,) bool, columns with a flag of missing numbers.
        sizes: (C,) codes of each column, 0 where it is numeric.
    """

    decode_all: Decode
    mean: Array
    std: Array
    flagged: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]

    @property
    def state(self) -> dict[str, Any]:
        """See `FittedFeatures`."""
        return {name: value for name, value in vars(self).items() if name != "decode_all"}

    def __call__(self, raws: Sequence[Raw]) -> npt.NDArray[np.float32]:
        """(n, F) float32, finite."""
        rows = list(self.decode_all(raws))
        cells = np.reshape(np.array(rows, dtype=np.float64), (len(rows), len(self.sizes)))
        finite = np.isfinite(cells)
        numbers = np.clip(np.where(finite, (cells - self.mean) / self.std, 0), -CLIP, CLIP)
        parts = [numbers[:, self.sizes == 0], ~finite[:, self.flagged]]
        parts += [cells[:, [i]] == np.arange(size) for i, size in enumerate(self.sizes) if size]
        features: npt.NDArray[np.float32] = np.concatenate(parts, 1).astype(np.float32)
        return features


def kmers(values: Sequence[npt.NDArray[np.int32]], symbols: int) -> list[Array]:
    """Log length, and square roots of the frequencies of k-mers, which overlap.

    Args:
        values: Each (t,) the numbers of symbols; `symbols` and above: unknown.
        symbols: Of the alphabet.
    """
    lengths = np.log([[max(len(value), 1)] for value in values])
    groups = [lengths]
    for k in range(1, 7):
        if k > 1 and symbols**k > MAX_KMERS:
            break
        rows = []
        for value in values:
            clear = value.astype(np.int64)
            windows = np.lib.stride_tricks.sliding_window_view(
                clear if len(clear) >= k else np.full(k, symbols), k
            )
            windows = windows[(windows < symbols).all(1)]
            counts = np.bincount(windows @ symbols ** np.arange(k), minlength=symbols**k)
            rows.append(np.sqrt(counts / max(len(value), 1)))
        groups.append(np.array(rows))
    return groups


def events(
    times: Sequence[Array], cells: Sequence[npt.NDArray[np.float32]], sizes: Sequence[int]
) -> list[Array]:
    """Counts of all events and of each kind, the span, gaps and the last gap, and what cells hold.

    Args:
        times: (n,) of each record's events, since its first.
        cells: (n, C) of each record, numbers or codes, NaN where missing.
        sizes: Codes of each column, 0 where it is numeric.
    """
    course, kinds, amounts = [], [], []
    for time, values in zip(times, cells):
        gaps = np.log1p(np.maximum(np.diff(time), 0)) if len(time) > 1 else np.zeros(1)
        span = np.log1p(max(time[-1], 0)) if len(time) else 0.0
        course.append([np.log1p(len(time)), span, gaps[-1], gaps.mean(), gaps.std(), gaps.max()])
        counts, statistics = [np.zeros(0)], [np.zeros(0)]
        for column, size in zip(values.T.astype(np.float64), sizes):
            x = column[np.isfinite(column)]
            if size:
                counts.append(np.log1p(np.bincount(x.astype(np.int64), minlength=size)[:size]))
            elif len(x):
                share = len(x) / len(column)
                statistics.append(np.array([x.mean(), x.std(), x.min(), x.max(), x[-1], share]))
            else:
                statistics.append(np.zeros(6))
        kinds.append(np.concatenate(counts))
        amounts.append(np.concatenate(statistics))
    return [np.array(part, dtype=np.float64) for part in (course, kinds, amounts)]
