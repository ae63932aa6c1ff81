"""Uniformly random masking, as in MAE (He et al. 2021, arXiv:2111.06377, section 3)."""

import torch
from torch import Tensor

from amodal.masking.hashing import hash_bits
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment


def random_keep(group_T: Tensor, seed_T: Tensor, order_T: Tensor, ratio: float | Tensor) -> Tensor:
    """Which tokens stay visible: exactly round(n (1 - ratio)) of n, and at least one.

    Args:
        group_T: (T,) int, the group of each token, such as its row; ids need not be contiguous nor
            tokens sorted.
        seed_T: (T,) int64, the group's seed, repeated for each of its tokens.
        order_T: (T,) int, the token's index in its group, unique there.
        ratio: Share to hide, in [0, 1]; a tensor has one for each token, the same within a group.

    Returns:
        (T,) bool.

    Raises:
        ValueError: For unequal lengths and for a ratio outside [0, 1].
    """
    check_tokens(group_T=group_T, seed_T=seed_T, order_T=order_T)
    if not isinstance(ratio, Tensor) and not 0 <= ratio <= 1:
        raise ValueError(f"ratio is the share of tokens to hide, between 0 and 1, got {ratio}.")
    segment_T, size_G = number_segments(group_T)
    share = 1 - ratio.to(group_T.device, torch.float64) if isinstance(ratio, Tensor) else 1 - ratio
    # Nudged before rounding, so that 5 (1 - 0.9) = 0.5 does not depend on the last bit of 1 - 0.9.
    keep_T = (size_G[segment_T].double() * share + 1e-9).round().clamp(min=1)
    return rank_in_segment(segment_T, size_G, hash_bits(seed_T, order_T)) < keep_T


def random_keep_units(
    group_T: Tensor, seed_T: Tensor, unit_T: Tensor, ratio: float | Tensor
) -> Tensor:
    """As `random_keep`, with units of several tokens, such as words, that are hidden whole.

    Args:
        group_T, seed_T: As in `random_keep`.
        unit_T: (T,) int >= 0, the unit of each token in its group.
        ratio: Share of the units to hide.

    Returns:
        (T,) bool.
    """
    check_tokens(group_T=group_T, seed_T=seed_T, order_T=unit_T)
    if not len(group_T):
        return torch.zeros_like(group_T, dtype=torch.bool)
    count = int(unit_T.max()) + 1
    unit_U, index_T = (group_T * count + unit_T).unique(return_inverse=True)
    seed_U = torch.empty_like(unit_U).scatter_(0, index_T, seed_T)
    if isinstance(ratio, Tensor):
        ratio = ratio.new_empty(len(unit_U)).scatter_(0, index_T, ratio)
    return random_keep(unit_U // count, seed_U, unit_U % count, ratio)[index_T]
