"""Whole units are hidden first, such as a date or a place, then tokens at random.

As in MAESTRO (Labatie et al. 2025, arXiv:2508.10894). Each segment, such as the tokens of a row
that one encoder sees, hides as many tokens as its ratio says, whatever its units hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment

TRIES = 64
"""Draws of the units of a segment before those that hide all of it are given up."""
_UNIT, _TOKEN = range(2)  # a stream of random numbers for each


@dataclass(frozen=True)
class Units:
    """Units of one kind, such as dates, each of which is hidden with a probability.

    Attributes:
        code_T: (T,) int64, of the unit that each token is of; the same numbers in every batch.
        chance_T: (T,) the probability that it is hidden, below 1; 0 for tokens of no unit.
    """

    code_T: Tensor
    chance_T: Tensor


def structured_keep(
    segment_T: Tensor, seed_T: Tensor, order_T: Tensor, units: Sequence[Units], ratio_T: Tensor
) -> Tensor:
    """Which tokens stay visible: round(n (1 - ratio)) of n in each segment, and at least one.

    Units are drawn until they leave something of their segment. What they hide is hidden first; if
    that is more than the ratio says, some of it is seen, and if it is less, others are hidden too.

    Args:
        segment_T: (T,) int, of each token, as `group_T` of `random_keep`.
        seed_T: (T,) int64, of the segment.
        order_T: (T,) int, the token's number in its segment, unique there.
        units: Of each kind.
        ratio_T: (T,) share to hide, in [0, 1], the same within a segment.

    Returns:
        (T,) bool.

    Raises:
        ValueError: For unequal lengths, and ratios that are no shares.
        AmodalError: For a probability that is none, or 1.
    """
    named = {f"code_T of units {i}": u.code_T for i, u in enumerate(units)}
    named |= {f"chance_T of units {i}": u.chance_T for i, u in enumerate(units)}
    check_tokens(segment_T=segment_T, seed_T=seed_T, order_T=order_T, ratio_T=ratio_T, **named)
    if not len(segment_T):
        return torch.ones(0, dtype=torch.bool)
    if not (0 <= ratio_T.min() and ratio_T.max() <= 1):
        raise ValueError("ratio_T are shares of tokens to hide, between 0 and 1")
    number_T, size_G = number_segments(segment_T)
    first_T = _hidden_units(number_T, len(size_G), seed_T, units)
    share_T = 1 - ratio_T.double()
    # nudged before rounding, as in `random_keep`
    keep_T = (size_G[number_T].double() * share_T + 1e-9).round().clamp(min=1)
    rank_T = rank_in_segment(number_T, size_G, hash_bits(seed_T, _TOKEN, order_T), first_T.long())
    return rank_T < keep_T


def _hidden_units(
    number_T: Tensor, segments: int, seed_T: Tensor, units: Sequence[Units]
) -> Tensor:
    """(T,) bool, the tokens of the units that are hidden."""
    for kind in units:
        if not (kind.chance_T.min() >= 0 and kind.chance_T.max() < 1):
            raise AmodalError(
                "a unit is hidden with a probability from 0 to below 1, not "
                f"{float(kind.chance_T.min())} to {float(kind.chance_T.max())}"
            )
    hidden_T = torch.zeros_like(number_T, dtype=torch.bool)
    open_G = torch.ones(segments, dtype=torch.bool)  # segments whose units are not drawn yet
    for attempt in range(TRIES):
        drawn_T = torch.zeros_like(hidden_T)
        for number, kind in enumerate(units):
            drawn_T |= uniform(seed_T, _UNIT, number, attempt, kind.code_T) < kind.chance_T
        hidden_T = torch.where(open_G[number_T], drawn_T, hidden_T)
        left_G = torch.zeros(segments, dtype=torch.int64)
        open_G = left_G.index_add_(0, number_T, (~hidden_T).long()) == 0
        if not open_G.any():
            return hidden_T
    return hidden_T & ~open_G[number_T]
