"""Values of different lengths, cut into pieces without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.column import spans


def ragged(values: Sequence[np.ndarray], empty: np.ndarray) -> Ragged:
    """Arrays (length, ...) end to end; `empty` (0, ...) says shape and type, and stands in where there are none."""
    flat = np.concatenate([empty, *values]).astype(empty.dtype, copy=False)
    return Ragged(torch.from_numpy(flat), torch.tensor([len(v) for v in values], dtype=torch.int64))


def pieces(lengths_N: Tensor, size: int) -> Tensor:
    """(N,) how many pieces of `size` cover each value: at least one."""
    return ((lengths_N + size - 1) // size).clamp(min=1)


def patches(values: Ragged, size: int, fill: float) -> tuple[Tensor, Tensor]:
    """Pieces (T, size, ...) of `size` steps, the last one of a value filled up with `fill`, and their number (N,)."""
    counts_N = pieces(values.lengths, size)
    first_N = counts_N.cumsum(0) - counts_N
    trailing = values.flat.shape[1:]
    padded = values.flat.new_full((int(counts_N.sum()) * size, *trailing), fill)
    padded[spans(first_N * size, values.lengths)] = values.flat
    return padded.view(-1, size, *trailing), counts_N


def frames(waves: Ragged, window: int, hop: int) -> tuple[Tensor, Tensor]:
    """Overlapping frames (F, window), one every `hop` samples of each clip, zeros past its end, and their number
    (N,)."""
    counts_N = pieces(waves.lengths, hop)
    # Zeros between the clips, as many as a frame can reach into: then every frame is a slice of one strided view.
    gap = pieces(torch.tensor(window - hop), hop) if window > hop else 0
    blocks_N = counts_N + gap
    first_N = blocks_N.cumsum(0) - blocks_N
    padded = waves.flat.new_zeros(max(int(blocks_N.sum()) * hop, window))
    padded[spans(first_N * hop, waves.lengths)] = waves.flat
    return padded.unfold(0, window, hop)[spans(first_N, counts_N)], counts_N


def steps(counts_N: Tensor) -> Tensor:
    """(T,) the number of each piece inside its value: 0, 1, …"""
    return spans(torch.zeros_like(counts_N), counts_N)


def crop(length: int, low: float, high: float, rng: np.random.Generator, least: int = 1) -> slice:
    """A random stretch of `low` to `high` of `length`, at least `least` long where there is that much."""
    kept = min(length, max(least, round(length * rng.uniform(low, high))))
    start = int(rng.integers(length - kept + 1))
    return slice(start, start + kept)
