"""How values enter a graph: dense inputs that any runtime can feed, instead of a flat list of
tokens.

`Modality.graph` wraps the trained tokeniser of one field in a module. Its `inputs` say what each
input is, its `axes` which axes of them are dynamic, `examples(n, length, rng)` makes values to try
it with. `forward` takes the inputs and returns content x (N, L, D), the positions of the L tokens,
(L, 3) or, where rows differ, (N, L, 3), and which of them are there (N, L) bool, None where all
always are. N rows, L tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import Ragged

Tokenised = tuple[Tensor, Tensor, Tensor | None]


def dense(values: Tensor | Ragged) -> tuple[Tensor, ...]:
    """Collated values as the inputs of a graph: a Tensor as it is, a Ragged padded with zeros and
    its lengths."""
    if isinstance(values, Tensor):
        return (values,)
    return nn.utils.rnn.pad_sequence(list(values.split()), batch_first=True), values.lengths


def pieces(lengths: Tensor, size: int) -> Tensor:
    return ((lengths + size - 1) // size).clamp(min=1)


def within(values: Tensor, lengths: Tensor) -> Tensor:
    """(N, T) bool: what of (N, T, ...) is before the end."""
    return torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)


def cut(values: Tensor, size: int, fill: float) -> Tensor:
    """(N, T, ...) -> (N, L, size, ...): pieces of `size` steps, the last one filled up."""
    count = (values.shape[1] + size - 1) // size
    values = pad(values, (0, 0) * (values.dim() - 2) + (0, size - 1), value=fill)
    return values[:, : count * size].reshape(values.shape[0], count, size, *values.shape[2:])


def line(pieces_NL: Tensor) -> Tensor:
    """(L, 3): the positions 0, 1, … along the first axis."""
    return pad(torch.arange(pieces_NL.shape[1], device=pieces_NL.device).float()[:, None], (0, 2))


def present(pieces_NL: Tensor, lengths: Tensor, size: int) -> Tensor:
    return within(pieces_NL, pieces(lengths, size))


def lengths_of(n: int, longest: int) -> list[int]:
    """n different lengths, up to `longest`."""
    return [max(1, longest - 3 * i) for i in range(n)]


def around(scale, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(*shape, C) float32 with the mean and deviation of each channel."""
    mean, std = (np.asarray(s) for s in scale)
    return (rng.standard_normal((*shape, len(mean))) * std + mean).astype(np.float32)
