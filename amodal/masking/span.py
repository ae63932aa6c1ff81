"""Spans of a sequence: wav2vec 2.0, data2vec for speech. Baevski et al. 2020, arXiv:2006.11477,
section 3.1."""

import torch
from torch import Tensor

from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.packed import check_tokens, number_bags

_START, _FORCED, _SPARED = 0, 1, 2  # one stream of random numbers for each decision


def _lowest(bag_T: Tensor, size_G: Tensor, key_T: Tensor) -> Tensor:
    """True at the token of each bag that has the smallest key."""
    lowest_G = key_T.new_full(size_G.shape, torch.iinfo(torch.int64).max).scatter_reduce_(
        0, bag_T, key_T, "amin"
    )
    return key_T == lowest_G[bag_T]


def span_mask(
    group_T: Tensor, seed_T: Tensor, order_T: Tensor, *, start: float | Tensor, length: int | Tensor
) -> Tensor:
    """Which tokens are hidden, bool (T,): each token begins, with probability `start`, a span of
    `length` positions.

    group_T, seed_T, order_T:  as in `random_keep`; `order_T` is also the axis along which spans
                               run.
    start:   the paper's p, 0.065 for speech; spans overlap, so about 1 - (1 - start)^length of the
             tokens are hidden.
    length:  the paper's M, 10 for speech, in units of `order_T`. Both may be tensors (T,), the same
             within a bag.

    In a bag of at least two tokens one is always hidden and one always visible; a single token is
    visible. Raises ValueError for unequal lengths, start outside [0, 1] and length below 1.
    """
    check_tokens(group_T=group_T, seed_T=seed_T, order_T=order_T)
    if len(group_T) == 0:
        return torch.zeros_like(group_T, dtype=torch.bool)
    length_T = torch.as_tensor(length, device=group_T.device).expand(len(group_T))
    start_T = torch.as_tensor(start, device=group_T.device).expand(len(group_T))
    if not bool(((start_T >= 0) & (start_T <= 1) & (length_T >= 1)).all()):
        raise ValueError(
            f"start is a probability and length at least 1, got start={start}, length={length}."
        )
    bag_T, size_G = number_bags(group_T)
    order_T = order_T.long()
    starts_T = uniform(seed_T, _START, order_T) < start_T
    started_G = torch.zeros_like(size_G).index_add_(0, bag_T, starts_T.long()) > 0
    starts_T = starts_T | (
        ~started_G[bag_T] & _lowest(bag_T, size_G, hash_bits(seed_T, _FORCED, order_T))
    )

    # All bags on one line, further apart than a span is long; then hidden = the last start is less
    # than a span away.
    first = order_T.min()
    longest = length_T.max()
    line_T = bag_T * (order_T.max() - first + longest + 1) + order_T - first
    sorted_T, index_T = line_T.sort()
    last_T = sorted_T.where(starts_T[index_T], -longest).cummax(0).values
    hidden_T = torch.empty_like(starts_T).scatter_(
        0, index_T, sorted_T - last_T < length_T[index_T]
    )

    hidden_G = torch.zeros_like(size_G).index_add_(0, bag_T, hidden_T.long())
    spared_T = (hidden_G == size_G)[bag_T] & _lowest(
        bag_T, size_G, hash_bits(seed_T, _SPARED, order_T)
    )
    return hidden_T & ~spared_T
