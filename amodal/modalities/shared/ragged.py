"""Values of different lengths, cut into pieces without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.column import spans
from amodal.core.host import host_copy, on_host


def ragged(values: Sequence[np.ndarray], empty: np.ndarray) -> Ragged:
    """Arrays (length, ...) end to end; `empty` (0, ...) says shape and type, and stands in where
    there are none."""
    flat = np.concatenate([empty, *values]).astype(empty.dtype, copy=False)
    return Ragged(torch.from_numpy(flat), torch.tensor([len(v) for v in values], dtype=torch.int64))


def pieces(lengths_N: Tensor, size: int) -> Tensor:
    """(N,) how many pieces of `size` cover each value: at least one."""
    return on_host(lambda lengths: ((lengths + size - 1) // size).clamp(min=1), lengths_N)


def patches(values: Ragged, size: int, fill: float) -> tuple[Tensor, Tensor]:
    """Pieces (T, size, ...) of `size` steps, the last one of a value filled up with `fill`, and
    their number (N,)."""
    counts_N = pieces(values.lengths, size)
    first_N = on_host(lambda counts: (counts.cumsum(0) - counts) * size, counts_N)
    trailing = values.flat.shape[1:]
    padded = values.flat.new_full((int(host_copy(counts_N).sum()) * size, *trailing), fill)
    padded[spans(first_N, values.lengths)] = values.flat
    return padded.view(-1, size, *trailing), counts_N


def frames(waves: Ragged, window: int, hop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Overlapping frames, one every `hop` samples of each clip, nothing copied yet: every stretch
    of `window` samples (any, window), which of them are frames (F,), how many samples of each are
    its clip's (F,), frames per clip (N,)."""
    counts_N = pieces(waves.lengths, hop)
    offset_F = steps(counts_N) * hop
    first_F, length_F = (
        on_host(torch.repeat_interleave, x, counts_N) for x in (waves.starts(), waves.lengths)
    )
    stretches = torch.nn.functional.pad(waves.flat, (0, window)).unfold(0, window, 1)
    return stretches, first_F + offset_F, length_F - offset_F, counts_N


def steps(counts_N: Tensor) -> Tensor:
    """(T,) the number of each piece inside its value: 0, 1, …"""
    return spans(on_host(torch.zeros_like, counts_N), counts_N)


def crop(length: int, low: float, high: float, rng: np.random.Generator, least: int = 1) -> slice:
    """A random stretch of `low` to `high` of `length`, at least `least` long where there is that
    much."""
    kept = min(length, max(least, round(length * rng.uniform(low, high))))
    start = int(rng.integers(length - kept + 1))
    return slice(start, start + kept)
