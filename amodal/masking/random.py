"""Uniformly random masking, as in MAE. He et al. 2021, arXiv:2111.06377, section 3."""

import torch
from torch import Tensor

from amodal.masking.hashing import hash_bits
from amodal.masking.packed import check_tokens, number_bags, rank_in_bag


def random_keep(group_T: Tensor, seed_T: Tensor, order_T: Tensor, ratio: float | Tensor) -> Tensor:
    """Which tokens stay visible, bool (T,): exactly round(n (1 - ratio)) of a bag of n, and at
    least one.

    group_T:  int, the bag of each token; ids need not be contiguous nor tokens sorted.
    seed_T:   int64, the bag's seed, repeated for each of its tokens.
    order_T:  int, the token's index inside its bag, unique there.
    ratio:    share to hide, in [0, 1]; a tensor gives one per token (the same within a bag).

    Raises ValueError for unequal lengths and for a ratio outside [0, 1].
    """
    check_tokens(group_T=group_T, seed_T=seed_T, order_T=order_T)
    if not isinstance(ratio, Tensor) and not 0 <= ratio <= 1:
        raise ValueError(f"ratio is the share of tokens to hide, between 0 and 1, got {ratio}.")
    bag_T, size_G = number_bags(group_T)
    share = 1 - ratio.to(group_T.device, torch.float64) if isinstance(ratio, Tensor) else 1 - ratio
    # Nudged before rounding, so that 5 (1 - 0.9) = 0.5 does not depend on the last bit of 1 - 0.9.
    keep_T = (size_G[bag_T].double() * share + 1e-9).round().clamp(min=1)
    return rank_in_bag(bag_T, size_G, hash_bits(seed_T, order_T)) < keep_T
