"""Channels and places of a record are hidden independently, as in the hyperspectral masked
autoencoder of LESS ViT (Si et al. 2025, arXiv:2503.12843)."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment

LEAST_CHANNELS = 2
"""Channels of a row that are seen at least, where it has as many."""
_CHANNEL, _PLACE = range(2)  # a stream of random numbers for each


def grid_keep(
    row_T: Tensor,
    seed_T: Tensor,
    channel_T: Tensor,
    place_T: Tensor,
    ground_T: Tensor,
    *,
    channel_ratio: float = 0.5,
    place_ratio: float = 0.75,
) -> tuple[Tensor, Tensor]:
    """Which channels and which places of the rows are seen; a token is, where both of its are.

    Of C channels max(floor(C (1 - channel_ratio)), 2) are, and of the N places of each ground
    max(floor(N (1 - place_ratio)), 1). Where no token has both, the first place that the first
    channel has is seen too.

    Args:
        row_T: (T,) int, of each token.
        seed_T: (T,) int64, of the row.
        channel_T: (T,) int64, the same number for the tokens of a channel, in every batch.
        place_T: (T,) int64, so for those of a place.
        ground_T: (T,) int64, so for the places that are drawn together.
        channel_ratio: Share of the channels to hide.
        place_ratio: Share of the places to hide.

    Returns:
        (T,) bool, whether the token's channel is seen, and (T,) bool, whether its place is.

    Raises:
        ValueError: For unequal lengths.
        AmodalError: For ratios that are not shares below 1.
    """
    check_tokens(
        row_T=row_T, seed_T=seed_T, channel_T=channel_T, place_T=place_T, ground_T=ground_T
    )
    for name, ratio in (("channel_ratio", channel_ratio), ("place_ratio", place_ratio)):
        if not 0 <= ratio < 1:
            raise AmodalError(f"{name} is a share from 0 to below 1, not {ratio}")
    everything_T = torch.zeros_like(row_T)
    channel_rank_T, channels_T = _ranks(row_T, everything_T, channel_T, seed_T, _CHANNEL)
    place_rank_T, places_T = _ranks(row_T, ground_T, place_T, seed_T, _PLACE)
    channel_keep_T = channel_rank_T < _count(channels_T, channel_ratio, LEAST_CHANNELS)
    place_keep_T = place_rank_T < _count(places_T, place_ratio, 1)
    blind_T = _none_in(row_T, channel_keep_T & place_keep_T)
    if blind_T.any():
        order_T, _ = _ranks(row_T, everything_T, place_T, seed_T, _PLACE)
        far = torch.iinfo(torch.int64).max
        first_T = torch.where(blind_T & (channel_rank_T == 0), order_T, far)
        row, _ = number_segments(row_T)
        least = torch.full((int(row.max()) + 1,), far).scatter_reduce(0, row, first_T, "amin")
        place_keep_T = place_keep_T | (blind_T & (order_T == least[row]))
    return channel_keep_T, place_keep_T


def _none_in(row_T: Tensor, keep_T: Tensor) -> Tensor:
    """(T,) bool: whether no token of the token's row is kept."""
    row, sizes = number_segments(row_T)
    seen_S = torch.zeros_like(sizes).index_add(0, row, keep_T.long())
    blind_T: Tensor = (seen_S == 0)[row]
    return blind_T


def _count(number_T: Tensor, ratio: float, least: int) -> Tensor:
    # nudged before rounding, so that 10 (1 - 0.9) does not depend on the last bit of 1 - 0.9
    return (number_T.double() * (1 - ratio) + 1e-9).floor().clamp(min=least)


def _ranks(
    row_T: Tensor, group_T: Tensor, unit_T: Tensor, seed_T: Tensor, stream: int
) -> tuple[Tensor, Tensor]:
    """(T,) the rank of each token's unit among those of its row and group, and how many these
    are."""
    segment_T, _ = number_segments(_pairs(row_T, group_T))
    number_T, size_U = number_segments(_pairs(segment_T, unit_T))
    first_T = rank_in_segment(number_T, size_U) == 0
    # each unit once, in the order of their numbers
    number_U = number_T[first_T]
    segment_U, bits_U = segment_T[first_T], hash_bits(seed_T, stream, unit_T)[first_T]
    size_S = torch.bincount(segment_U)
    rank_U = torch.empty_like(number_U)
    rank_U[number_U] = rank_in_segment(segment_U, size_S, bits_U)
    return rank_U[number_T], size_S[segment_T]


def _pairs(one_T: Tensor, other_T: Tensor) -> Tensor:
    """(T,) int64, the number of the pair of two codes, of any numbers."""
    codes, number_T = torch.unique(other_T, return_inverse=True)
    segment_T, _ = number_segments(one_T)
    pair_T: Tensor = segment_T * max(len(codes), 1) + number_T
    return pair_T


def float_bits(value_T: Tensor) -> Tensor:
    """(T,) int64, the bits of numbers in single precision, one for both zeros, for codes."""
    bits: Tensor = (value_T.float() + 0.0).contiguous().view(torch.int32).long()
    return bits
