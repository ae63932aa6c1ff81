"""Rectangular blocks of a grid, as in BEiT (Bao et al. 2021, arXiv:2106.08254, algorithm 1).

The hidden part is made of blocks, not its inverse. Departures from the paper's loop: all segments
are done at once, so blocks are drawn without regard to what is covered already; a segment hides an
exact number of tokens, the last block being cut from its rim inwards; and a block may hang over the
border, without which corners would hardly ever be hidden.
"""

import math

import torch
from torch import Tensor

from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment

# blocks per segment; what they leave uncovered is filled at random, which at usual ratios does not
# happen
_DRAWS = 16


def _unit(values_T: Tensor, segment_T: Tensor, segments: int) -> Tensor:
    """Centres of the grid's cells when the grid of each segment is stretched to [0, 1]: 1/2n, 3/2n,
    …
    """
    low_G = values_T.new_full((segments,), math.inf).scatter_reduce_(0, segment_T, values_T, "amin")
    high_G = values_T.new_full((segments,), -math.inf).scatter_reduce_(
        0, segment_T, values_T, "amax"
    )
    order_T = values_T.argsort(stable=True)
    order_T = order_T[segment_T[order_T].argsort(stable=True)]
    value_T, owner_T = values_T[order_T], segment_T[order_T]
    new_T = torch.ones_like(owner_T)
    new_T[1:] = ((value_T[1:] != value_T[:-1]) | (owner_T[1:] != owner_T[:-1])).long()
    lines_T = torch.zeros_like(low_G).index_add_(0, owner_T, new_T.to(low_G.dtype))[segment_T]
    share_T = (values_T - low_G[segment_T]) / (high_G - low_G)[segment_T].clamp(min=1e-12)
    return (share_T * (lines_T - 1) + 0.5) / lines_T


def block_mask(
    group_T: Tensor,
    seed_T: Tensor,
    position_TP: Tensor,
    *,
    ratio: float | Tensor,
    smallest: float = 0.08,
    aspect: float = 0.3,
) -> Tensor:
    """Which tokens are hidden: blocks that cover exactly round(n ratio) of n tokens.

    Args:
        group_T, seed_T: As in `random_keep`.
        position_TP: Coordinates whose last two are y and x. Tokens that share them (the frames of a
            video) are hidden together, up to the last block's cut: tubes. The grid is what the
            tokens of a group span.
        ratio: Share to hide, in [0, 1]; of two tokens or more at least one is hidden and one
            visible. A tensor has one for each token, the same within a group.
        smallest: Area of the smallest block as a share of the grid (16 of 196 patches in the
            paper).
        aspect: Height : width lies between `aspect` and 1 / `aspect`, on a log scale, relative to
            the grid's own.

    Returns:
        (T,) bool.

    Raises:
        ValueError: For unequal lengths, fewer than two coordinates and a ratio outside [0, 1].
    """
    check_tokens(group_T=group_T, seed_T=seed_T, position_TP=position_TP)
    if position_TP.dim() != 2 or position_TP.shape[1] < 2:
        raise ValueError(
            "block_mask needs (T, P >= 2) positions ending in y, x, got "
            f"{tuple(position_TP.shape)}."
        )
    if not isinstance(ratio, Tensor) and not 0 <= ratio <= 1:
        raise ValueError(f"ratio is the share of tokens to hide, between 0 and 1, got {ratio}.")
    if len(group_T) == 0:
        return torch.zeros_like(group_T, dtype=torch.bool)
    segment_T, size_G = number_segments(group_T)
    position_TP = position_TP.float() + 0.0  # one zero, not two: the bits are hashed below
    y_T, x_T = (_unit(position_TP[:, axis], segment_T, len(size_G)) for axis in (-2, -1))

    seed_G = seed_T.new_zeros(size_G.shape).scatter_(0, segment_T, seed_T)
    largest: float | Tensor
    if isinstance(ratio, Tensor):
        ratio_G = torch.zeros_like(size_G, dtype=torch.float64)
        ratio_G.scatter_(0, segment_T, ratio.to(size_G.device, torch.float64))
        wanted_G, largest = size_G * ratio_G, ratio_G.clamp(min=smallest).float()
    else:
        wanted_G, largest = size_G * ratio, max(smallest, ratio)
    # key = (number of the first block that covers the token) + (how far from that block's middle,
    # at most 1/2)
    key_T = y_T.new_full(y_T.shape, float(_DRAWS))
    # backwards, so that the first block that covers a token is written last and stays
    for draw in reversed(range(_DRAWS)):
        area_G, shape_G, middle_y_G, middle_x_G = (uniform(seed_G, draw, part) for part in range(4))
        area_G = smallest + (largest - smallest) * area_G
        root_G = torch.exp((0.5 - shape_G) * -math.log(aspect))  # square root of the aspect ratio
        height_G, width_G = (
            (area_G.sqrt() * root_G).clamp(max=1),
            (area_G.sqrt() / root_G).clamp(max=1),
        )
        dy_T = ((y_T - middle_y_G[segment_T]) / height_G[segment_T]).abs()
        dx_T = ((x_T - middle_x_G[segment_T]) / width_G[segment_T]).abs()
        away_T = torch.maximum(dy_T, dx_T)
        key_T = torch.where(away_T <= 0.5, draw + away_T, key_T)

    # Equal keys (mirror images about a middle, tubes, the uncovered rest) are ordered by a hash of
    # where the token is.
    tie_T = hash_bits(seed_T, _DRAWS, *position_TP.contiguous().view(torch.int32).unbind(1))
    # nudged as in `random_keep`
    hidden_T = (wanted_G + 1e-9).round().clamp(min=1).minimum(size_G - 1)[segment_T]
    return rank_in_segment(segment_T, size_G, tie_T, key_T) < hidden_T
