"""Dense inputs of graphs for other runtimes, instead of packed tokens.

`Modality.graph` wraps the trained tokenizer of a field in a module with these members:

    inputs: name of each input -> its description.
    axes: the dynamic axes of each input.
    examples(n, length, rng): values to try it with.
    forward(*inputs): tokens x (N, L, D), their positions (L, 3) or, if rows differ, (N, L, 3), and
        their mask (N, L) bool, None if all exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import Ragged

Tokenised = tuple[Tensor, Tensor, Tensor | None]


def dense(values: Tensor | Ragged) -> tuple[Tensor, ...]:
    """Collated values as inputs of a graph: a Ragged is padded, and followed by its lengths."""
    if isinstance(values, Tensor):
        return (values,)
    return nn.utils.rnn.pad_sequence(list(values.split()), batch_first=True), values.lengths


def num_patches(lengths: Tensor, size: int) -> Tensor:
    """(N,) number of patches of `size` steps that cover each value, at least one."""
    return ((lengths + size - 1) // size).clamp(min=1)


def length_mask(values: Tensor, lengths: Tensor) -> Tensor:
    """(N, T) bool: what of (N, T, ...) is before the end."""
    return torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)


def patchify(values: Tensor, size: int, fill: float) -> Tensor:
    """(N, T, ...) -> (N, L, size, ...): patches of `size` steps, the last padded with `fill`."""
    count = (values.shape[1] + size - 1) // size
    values = pad(values, (0, 0) * (values.dim() - 2) + (0, size - 1), value=fill)
    return values[:, : count * size].reshape(values.shape[0], count, size, *values.shape[2:])


def positions_1d(pieces_NL: Tensor) -> Tensor:
    """(L, 3): positions 0, 1, … along the first axis."""
    return pad(torch.arange(pieces_NL.shape[1], device=pieces_NL.device).float()[:, None], (0, 2))


def patch_mask(pieces_NL: Tensor, lengths: Tensor, size: int) -> Tensor:
    """(N, L) bool: which patches begin before the end."""
    return length_mask(pieces_NL, num_patches(lengths, size))


def example_lengths(n: int, longest: int) -> list[int]:
    """n different lengths, up to `longest`."""
    return [max(1, longest - 3 * i) for i in range(n)]


def random_values(
    scale: Sequence[Sequence[float]], shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """(*shape, C) float32, normal with the mean and deviation of each channel."""
    mean, std = (np.asarray(s) for s in scale)
    values: np.ndarray = rng.standard_normal((*shape, len(mean))) * std + mean
    return values.astype(np.float32)
