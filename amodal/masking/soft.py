"""Soft masks: tokens that a map points at are scaled down instead of removed.

Park and Han, CVPR 2023, arXiv:2304.00719, section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.masking.hashing import uniform

_DRAW = 67  # keeps this draw apart from others by the same seed


def soft_mask(maps_NK: Tensor, lengths_N: Tensor, *, hard: float = 0.0) -> Tensor:
    """Factors 1 - A of tokens, where A is the map of a list, stretched to [0, 1].

    A map that is the same everywhere points nowhere and hides nothing.

    Args:
        maps_NK: (N, K), not negative; entries beyond the length of a list are not read.
        lengths_N: (N,) int64, of the lists.
        hard: Above 0, tokens with A above it get the factor 0 and all others 1, which removes them.

    Returns:
        (sum of lengths,), list after list.

    Raises:
        ValueError: For `hard` outside [0, 1), and for lists longer than the map.
    """
    if not 0 <= hard < 1:
        raise ValueError(f"hard is a height of the map, from 0 (soft) to below 1, got {hard}.")
    if len(maps_NK) != len(lengths_N) or (
        len(lengths_N) and int(lengths_N.max()) > maps_NK.shape[1]
    ):
        raise ValueError(
            f"maps {tuple(maps_NK.shape)} do not fit {len(lengths_N)} lists of these lengths."
        )
    is_token = torch.arange(maps_NK.shape[1], device=maps_NK.device) < lengths_N[:, None]
    maps = maps_NK.detach()
    if not maps.numel():
        return maps.flatten()[:0]
    low = maps.masked_fill(~is_token, torch.inf).amin(1, keepdim=True)
    high = maps.masked_fill(~is_token, -torch.inf).amax(1, keepdim=True)
    height = ((maps - low) / (high - low).clamp(min=1e-12))[is_token]
    return (height <= hard).to(maps.dtype) if hard else 1 - height


def one_map(maps_NQK: Tensor, lengths_N: Tensor, seed_N: Tensor) -> Tensor:
    """The map of one random query of each row.

    Args:
        maps_NQK: (N, Q, K), a map for each query.
        lengths_N: (N,) int64, queries of each row.
        seed_N: (N,) int64.

    Returns:
        (N, K).
    """
    if not maps_NQK.numel():
        return maps_NQK.sum(1)
    query = (uniform(seed_N, _DRAW) * lengths_N).long()
    return maps_NQK[torch.arange(len(query), device=query.device), query]
