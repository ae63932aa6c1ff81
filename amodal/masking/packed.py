"""Arithmetic on segments of packed tokens, given by a group id per token, in any order."""

import torch
from torch import Tensor


def number_segments(group_T: Tensor) -> tuple[Tensor, Tensor]:
    """(segment_T, size_G): ids renumbered 0..G-1, and how many tokens each segment has."""
    _, segment_T = torch.unique(group_T, return_inverse=True)
    return segment_T, torch.bincount(segment_T)


def rank_in_segment(segment_T: Tensor, size_G: Tensor, *keys: Tensor) -> Tensor:
    """The rank 0, 1, … of each token in its segment.

    Args:
        segment_T: (T,) int64, of `number_segments`.
        size_G: (G,) int64.
        keys: (T,) each, by which tokens are sorted, the last key being the most significant.

    Returns:
        (T,) int64.
    """
    order_T = torch.arange(len(segment_T), device=segment_T.device)
    # stable sorts one after another, the most significant key last
    for key_T in (*keys, segment_T):
        order_T = order_T[key_T[order_T].argsort(stable=True)]
    start_G = size_G.cumsum(0) - size_G
    place_T = torch.arange(len(segment_T), device=segment_T.device) - start_G[segment_T[order_T]]
    return torch.empty_like(place_T).scatter_(0, order_T, place_T)


def check_tokens(**tensors: Tensor) -> None:
    """Raise ValueError unless all have the same number of tokens."""
    lengths = {name: value.shape[0] if value.dim() else None for name, value in tensors.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"one entry per token is needed everywhere, got lengths {lengths}.")
