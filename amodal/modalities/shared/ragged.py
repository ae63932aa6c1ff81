"""Packed values of different lengths, cut into patches without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.column import spans
from amodal.core.host import host_copy, on_host


def pack(values: Sequence[np.ndarray], empty: np.ndarray) -> Ragged:
    """Pack arrays (length, ...) end to end.

    Args:
        values: N arrays.
        empty: (0, ...), of their type and shape, for N = 0.
    """
    flat = np.concatenate([empty, *values]).astype(empty.dtype, copy=False)
    return Ragged(torch.from_numpy(flat), torch.tensor([len(v) for v in values], dtype=torch.int64))


def num_patches(lengths_N: Tensor, size: int) -> Tensor:
    """(N,) number of patches of `size` steps that cover each value, at least one."""
    return on_host(lambda lengths: ((lengths + size - 1) // size).clamp(min=1), lengths_N)


def patches(values: Ragged, size: int, fill: float) -> tuple[Tensor, Tensor]:
    """Patches of `size` steps of each value, the last one padded with `fill`.

    Returns:
        (T, size, ...), and their number (N,).
    """
    counts_N = num_patches(values.lengths, size)
    first_N = on_host(lambda counts: (counts.cumsum(0) - counts) * size, counts_N)
    trailing = values.flat.shape[1:]
    padded = values.flat.new_full((int(host_copy(counts_N).sum()) * size, *trailing), fill)
    padded[spans(first_N, values.lengths)] = values.flat
    return padded.view(-1, size, *trailing), counts_N


def frames(waves: Ragged, window: int, hop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Overlapping frames, one every `hop` samples of each clip, without a copy.

    Args:
        waves: N clips.
        window: samples of a frame.
        hop: samples between frames.

    Returns:
        Every window of samples (any, window), start of each frame (F,), samples of each frame that
        belong to its clip (F,), frames a clip (N,).
    """
    counts_N = num_patches(waves.lengths, hop)
    offset_F = index_in_value(counts_N) * hop
    first_F, length_F = (
        on_host(torch.repeat_interleave, x, counts_N) for x in (waves.starts(), waves.lengths)
    )
    windows = torch.nn.functional.pad(waves.flat, (0, window)).unfold(0, window, 1)
    return windows, first_F + offset_F, length_F - offset_F, counts_N


def index_in_value(counts_N: Tensor) -> Tensor:
    """(T,) the index of each patch in its value: 0, 1, …"""
    return spans(on_host(torch.zeros_like, counts_N), counts_N)


def random_crop(
    length: int, low: float, high: float, rng: np.random.Generator, least: int = 1
) -> slice:
    """A random slice of `low` to `high` of `length`.

    At least `least` long, if the value is.
    """
    crop_length = min(length, max(least, round(length * rng.uniform(low, high))))
    start = int(rng.integers(length - crop_length + 1))
    return slice(start, start + crop_length)
