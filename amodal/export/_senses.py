"""How each kind of data enters a graph: dense inputs that any runtime can feed, instead of a flat list of tokens.

A class wraps the trained tokeniser of one sense. `forward` takes the graph's inputs and returns content x (N, L, D), the
positions of the L tokens, (L, 3) or, where rows differ, (N, L, 3), and which of them are there (N, L) bool, None where all always
are. N rows, L tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import Column, Ragged
from amodal.modalities.shared import sound as _sound
from amodal.modalities.table import gather_groups

Tokenised = tuple[Tensor, Tensor, Tensor | None]


class Image(nn.Module):
    inputs = {
        "pixels": "(N, channels, size, size) float32: 8-bit pictures divided by 255, others as the field decodes them"
    }
    axes = ({0: "batch"},)

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.image, self.project = tokenizer.image, tokenizer.project
        blank = self.image.collate([]).new_zeros(1, self.image.channels, self.image.size, self.image.size)
        position = tokenizer(Column(blank, torch.zeros(1, dtype=torch.int64)), "image", 1).position
        self.register_buffer("position", position)

    def forward(self, pixels: Tensor) -> Tokenised:
        mean, std = (pixels.new_tensor(s).view(-1, 1, 1) for s in self.image.scale())
        tile, side = self.image.tile, self.image.size // self.image.tile
        tiles = ((pixels - mean) / std).reshape(-1, self.image.channels, side, tile, side, tile)
        return self.project(tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)), self.position, None

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        return list(_around(self.image.scale(), (n, self.image.size, self.image.size), rng).transpose(0, 3, 1, 2))


class Text(nn.Module):
    inputs = {
        "ids": "(N, length) int64: UTF-8 bytes, or ids of the field's vocabulary; anything past the end of a text",
        "lengths": "(N,) int64: ids in each text, at least 1",
    }
    axes = ({0: "batch", 1: "length"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.patch, self.blank, self.embed, self.project = (
            tokenizer.patch,
            tokenizer.blank,
            tokenizer.embed,
            tokenizer.project,
        )

    def forward(self, ids: Tensor, lengths: Tensor) -> Tokenised:
        ids_NLp = _cut(torch.where(_within(ids, lengths), ids, self.blank), self.patch, self.blank)
        return self.project(self.embed(ids_NLp).flatten(2)), _line(ids_NLp), _there(ids_NLp, lengths, self.patch)

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.integers(0, self.blank, k) for k in _lengths(n, length)]


class Series(nn.Module):
    inputs = {
        "values": "(N, steps, channels) float32 in the data's own units: NaN where a sample is missing; anything past the end",
        "lengths": "(N,) int64: steps of each series, at least 1",
    }
    axes = ({0: "batch", 1: "steps"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.series, self.project = tokenizer.series, tokenizer.project

    def forward(self, values: Tensor, lengths: Tensor) -> Tokenised:
        mean, std = (values.new_tensor(s) for s in self.series.scale())
        values = torch.where(_within(values, lengths).unsqueeze(2), (values - mean) / std, torch.nan)
        patches_NLp = _cut(values, self.series.patch, torch.nan).flatten(2)
        present = (~patches_NLp.isnan()).to(patches_NLp.dtype)
        x_NLD = self.project(torch.cat([patches_NLp.nan_to_num(), present], 2))
        return x_NLD, _line(patches_NLp), _there(patches_NLp, lengths, self.series.patch)

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        values = [_around(self.series.scale(), (k,), rng) for k in _lengths(n, length)]
        return [np.where(rng.random(v.shape) < 0.2, np.float32(np.nan), v) for v in values]


class Audio(nn.Module):
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
            # the Fourier transform as a matrix: every runtime multiplies matrices, few have a transform of any length
            window = max(2, round(self.audio.rate * self.audio.window_ms / 1000))
            hann = torch.hann_window(window, dtype=torch.float64)
            fourier = torch.fft.rfft(torch.diag(hann / hann.square().sum().sqrt()))
            self.register_buffer("real", fourier.real.float())
            self.register_buffer("imaginary", fourier.imag.float())
            self.register_buffer("filters", _sound.mel_filters(self.audio.rate, fourier.shape[1], self.audio.mels))

    def forward(self, samples: Tensor, lengths: Tensor) -> Tokenised:
        mean, std = self.audio.scale()
        there, tile = _within(samples, lengths), self.audio.tile
        if not self.audio.spectral:
            patches_NLp = _cut(torch.where(there, (samples - mean) / std, 0.0), tile[0], 0.0)
            return self.project(patches_NLp), _line(patches_NLp), _there(patches_NLp, lengths, tile[0])
        counts = _pieces(lengths, self.audio.hop)
        frames_NFm = (self._log_mel(torch.where(there, samples, 0.0)) - mean) / std
        frames_NFm = torch.where(_within(frames_NFm, counts).unsqueeze(2), frames_NFm, 0.0)
        tiles = _cut(frames_NFm, tile[0], 0.0).unflatten(3, (self.bands, tile[1])).transpose(2, 3)
        x_NLD = self.project(tiles.flatten(3)).flatten(1, 2)
        step = torch.arange(x_NLD.shape[1], device=samples.device)
        position = torch.stack([step // self.bands, step % self.bands, torch.zeros_like(step)], 1).float()
        there = step // self.bands < _pieces(counts, tile[0]).unsqueeze(1)
        return x_NLD, position, there

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(N, frames, mels), a frame every `hop` samples, as `amodal.modalities.shared.sound.log_mel`."""
        window, hop = len(self.real), self.audio.hop
        starts = torch.arange((samples.shape[1] + hop - 1) // hop, device=samples.device) * hop
        at = starts.unsqueeze(1) + torch.arange(window, device=samples.device)
        frames = pad(samples, (0, window + hop))[:, at]
        power = (frames @ self.real).square() + (frames @ self.imaginary).square()
        return (power @ self.filters).clamp(min=_sound.FLOOR).log()

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        unit = self.audio.shortest // 4 + 1
        return [rng.normal(0, 0.1, k * unit + 1).astype(np.float32) for k in _lengths(n, length)]


class Table(nn.Module):
    inputs = {
        "cells": "(N, columns) float32: the number, or the place of the category in its list (the list's length for one that "
        "is not in it); NaN where a cell is missing; a row has at least one cell"
    }
    axes = ({0: "batch"},)

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.cells = tokenizer
        sizes = torch.tensor(tokenizer.table.sizes())
        self.register_buffer("sizes", sizes)
        self.register_buffer("first", sizes.cumsum(0) - sizes)

    def forward(self, cells: Tensor) -> Tokenised:
        part, there = self.cells, ~cells.isnan()
        number_NC1 = part.table.standardised(cells).nan_to_num().unsqueeze(2)
        angle = 2 * torch.pi * part.frequency * number_NC1
        features = torch.cat([number_NC1, angle.sin(), angle.cos()], 2) if part.table.frequencies else number_NC1
        x_NCD = (features.unsqueeze(2) @ part.weight).squeeze(2)
        if part.table.categories:
            code = torch.minimum(cells.nan_to_num().long().clamp(min=0), (self.sizes - 1).clamp(min=0)) + self.first
            code = code.clamp(max=part.embed.num_embeddings - 1)  # of numeric columns, whose codes mean nothing
            x_NCD = torch.where((self.sizes > 0)[:, None], part.embed(code), x_NCD)
        x_NGD, there = gather_groups(x_NCD + part.bias, there, part.table.patch)
        return x_NGD, _line(x_NGD), there

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        table = self.cells.table
        codes = rng.integers(0, np.maximum(table.sizes(), 1), (n, len(table.columns)))
        values = np.where(table.numeric(), _around(table.scale(), (n,), rng), codes).astype(np.float32)
        missing = rng.random(values.shape) < 0.3
        missing[:, rng.integers(len(table.columns))] = False
        return list(np.where(missing, np.float32(np.nan), values))


class Sequence(nn.Module):
    inputs = {
        "symbols": "(N, length) int64: the place of each symbol in the field's alphabet, its length for an unknown one; "
        "anything past the end of a sequence",
        "lengths": "(N,) int64: symbols of each sequence, at least 1",
    }
    axes = ({0: "batch", 1: "length"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.sequence, self.embed = tokenizer.sequence, tokenizer.embed
        self.register_buffer("power", len(self.sequence.alphabet) ** torch.arange(self.sequence.k - 1, -1, -1))

    def forward(self, symbols: Tensor, lengths: Tensor) -> Tokenised:
        unknown, k = len(self.sequence.alphabet), self.sequence.k
        symbols_NLk = _cut(torch.where(_within(symbols, lengths), symbols, unknown), k, unknown)
        word_NL = (symbols_NLk.long() * self.power).sum(2)
        word_NL = word_NL.masked_fill((symbols_NLk == unknown).any(2), self.sequence.words)
        return self.embed(word_NL), _line(symbols_NLk), _there(symbols_NLk, lengths, k)

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        unknown = len(self.sequence.alphabet)
        return [np.where(rng.random(k) < 0.1, unknown, rng.integers(0, unknown, k)) for k in _lengths(n, length)]


class Events(nn.Module):
    inputs = {
        "events": "(N, events, 1 + fields) float32, in order of time: the time since the first event, then of each field the "
        "number, or the place of the category in its list (the list's length for one that is not in it); NaN where a cell is "
        "missing; anything past the end",
        "lengths": "(N,) int64: events of each record, at least 1",
    }
    axes = ({0: "batch", 1: "events"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.events, self.table = tokenizer.events, Table(tokenizer.cells)

    def forward(self, events: Tensor, lengths: Tensor) -> Tokenised:
        there = _within(events, lengths)
        events = torch.where(there.unsqueeze(2), events, 0.0)
        time = events[:, :, 0] / self.events.step
        gap = pad((time[:, 1:] - time[:, :-1]).clamp(min=0), (1, 0))
        gap = gap.log1p() if self.events.log else gap
        cells = torch.cat([events[:, :, 1:], gap.unsqueeze(2)], 2)
        x_NLD = self.table(cells.flatten(0, 1))[0].reshape(*cells.shape[:2], -1)
        number = torch.arange(events.shape[1], device=events.device).to(time.dtype).expand_as(time)
        return x_NLD, torch.stack([time, number, torch.zeros_like(time)], 2), there

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        values = []
        for k in _lengths(n, length):
            times = rng.exponential(self.events.step, k).cumsum()
            cells = np.stack(self.table.examples(k, length, rng))[:, :-1]
            values.append(np.concatenate([(times - times[0])[:, None], cells], 1).astype(np.float32))
        return values


SENSES = {
    "image": Image,
    "text": Text,
    "series": Series,
    "audio": Audio,
    "table": Table,
    "sequence": Sequence,
    "events": Events,
}


def dense(values: Tensor | Ragged) -> tuple[Tensor, ...]:
    """Collated values as the inputs of a graph: a Tensor as it is, a Ragged padded with zeros and its lengths."""
    if isinstance(values, Tensor):
        return (values,)
    return nn.utils.rnn.pad_sequence(list(values.split()), batch_first=True), values.lengths


def _pieces(lengths: Tensor, size: int) -> Tensor:
    return ((lengths + size - 1) // size).clamp(min=1)


def _within(values: Tensor, lengths: Tensor) -> Tensor:
    """(N, T) bool: what of (N, T, ...) is before the end."""
    return torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)


def _cut(values: Tensor, size: int, fill: float) -> Tensor:
    """(N, T, ...) -> (N, L, size, ...): pieces of `size` steps, the last one filled up."""
    count = (values.shape[1] + size - 1) // size
    values = pad(values, (0, 0) * (values.dim() - 2) + (0, size - 1), value=fill)
    return values[:, : count * size].reshape(values.shape[0], count, size, *values.shape[2:])


def _line(pieces_NL: Tensor) -> Tensor:
    """(L, 3): the positions 0, 1, … along the first axis."""
    return pad(torch.arange(pieces_NL.shape[1], device=pieces_NL.device).float()[:, None], (0, 2))


def _there(pieces_NL: Tensor, lengths: Tensor, size: int) -> Tensor:
    return _within(pieces_NL, _pieces(lengths, size))


def _lengths(n: int, longest: int) -> list[int]:
    """n different lengths, up to `longest`."""
    return [max(1, longest - 3 * i) for i in range(n)]


def _around(scale, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(*shape, C) float32 with the mean and deviation of each channel."""
    mean, std = (np.asarray(s) for s in scale)
    return (rng.standard_normal((*shape, len(mean))) * std + mean).astype(np.float32)
