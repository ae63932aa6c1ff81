"""Spans of a sequence, as in wav2vec 2.0 and data2vec for speech.

Baevski et al. 2020, arXiv:2006.11477, section 3.1.
"""

import torch
from torch import Tensor

from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.packed import check_tokens, number_segments

_START, _FORCED, _SPARED = 0, 1, 2  # one stream of random numbers for each decision


def _lowest(segment_T: Tensor, size_G: Tensor, key_T: Tensor) -> Tensor:
    """True at the token of each segment that has the smallest key."""
    lowest_G = key_T.new_full(size_G.shape, torch.iinfo(torch.int64).max).scatter_reduce_(
        0, segment_T, key_T, "amin"
    )
    return key_T == lowest_G[segment_T]


def span_mask(
    group_T: Tensor, seed_T: Tensor, order_T: Tensor, *, start: float | Tensor, length: int | Tensor
) -> Tensor:
    """Which tokens are hidden: each begins a span of `length` positions with probability `start`.

    Of two tokens or more at least one is hidden and one visible; a single token is visible.

    Args:
        group_T, seed_T, order_T: As in `random_keep`; `order_T` is also the axis of the spans.
        start: The paper's p, 0.065 for speech. Spans overlap, so about 1 - (1 - start)^length of
            the tokens are hidden. A tensor has one for each token, the same within a group.
        length: The paper's M, 10 for speech, in units of `order_T`; a tensor likewise.

    Returns:
        (T,) bool.

    Raises:
        ValueError: For unequal lengths, start outside [0, 1] and length below 1.
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
    segment_T, size_G = number_segments(group_T)
    order_T = order_T.long()
    starts_T = uniform(seed_T, _START, order_T) < start_T
    started_G = torch.zeros_like(size_G).index_add_(0, segment_T, starts_T.long()) > 0
    starts_T = starts_T | (
        ~started_G[segment_T] & _lowest(segment_T, size_G, hash_bits(seed_T, _FORCED, order_T))
    )

    # All segments on one line, further apart than a span is long: a token is hidden if the last
    # start is less than a span away.
    first = order_T.min()
    longest = length_T.max()
    line_T = segment_T * (order_T.max() - first + longest + 1) + order_T - first
    sorted_T, index_T = line_T.sort()
    # before the first start the last one is a whole span away
    last_T = sorted_T.where(starts_T[index_T], -longest).cummax(0).values
    hidden_T = torch.empty_like(starts_T).scatter_(
        0, index_T, sorted_T - last_T < length_T[index_T]
    )

    hidden_G = torch.zeros_like(size_G).index_add_(0, segment_T, hidden_T.long())
    spared_T = (hidden_G == size_G)[segment_T] & _lowest(
        segment_T, size_G, hash_bits(seed_T, _SPARED, order_T)
    )
    return hidden_T & ~spared_T
