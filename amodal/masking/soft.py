"""Soft masks: what a map points at is turned down instead of taken away. Park and Han, CVPR 2023,
arXiv:2304.00719, section 4.1."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.masking.hashing import uniform

_DRAW = 67  # keeps this draw apart from others by the same seed


def soft_mask(maps_NK: Tensor, lengths_N: Tensor, *, hard: float = 0.0) -> Tensor:
    """(sum of lengths,) factors 1 - A for the tokens of N lists, end to end; A is the map of a
    list, stretched to [0, 1].

    maps_NK: not negative; entries beyond the length of a list are passed over. hard: above 0,
    tokens with A above it get the factor 0 and all others 1, which is removal of the same tokens. A
    map that is the same everywhere points nowhere and hides nothing. Raises ValueError for `hard`
    outside [0, 1) and lists longer than the map.
    """
    if not 0 <= hard < 1:
        raise ValueError(f"hard is a height of the map, from 0 (soft) to below 1, got {hard}.")
    if len(maps_NK) != len(lengths_N) or (
        len(lengths_N) and int(lengths_N.max()) > maps_NK.shape[1]
    ):
        raise ValueError(
            f"maps {tuple(maps_NK.shape)} do not fit {len(lengths_N)} lists of these lengths."
        )
    there = torch.arange(maps_NK.shape[1], device=maps_NK.device) < lengths_N[:, None]
    maps = maps_NK.detach()
    if not maps.numel():
        return maps.flatten()[:0]
    low = maps.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    high = maps.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
    height = ((maps - low) / (high - low).clamp(min=1e-12))[there]
    return (height <= hard).to(maps.dtype) if hard else 1 - height


def one_map(maps_NQK: Tensor, lengths_N: Tensor, seed_N: Tensor) -> Tensor:
    """(N, K): of each row the map of one of its first `lengths_N` queries, drawn by its seed
    (int64)."""
    if not maps_NQK.numel():
        return maps_NQK.sum(1)
    query = (uniform(seed_N, _DRAW) * lengths_N).long()
    return maps_NQK[torch.arange(len(query), device=query.device), query]
