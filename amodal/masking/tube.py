"""Tubes: a place is hidden at all times or at none, so it cannot be copied from the frame before.

Tong et al., VideoMAE, NeurIPS 2022, arXiv:2203.12602, section 3.2.
"""

import torch
from torch import Tensor

from amodal.masking.packed import number_segments
from amodal.masking.random import random_keep


def tube_keep(
    group_T: Tensor, seed_T: Tensor, order_T: Tensor, position_TP: Tensor, ratio: float
) -> Tensor:
    """Which tokens stay visible: those of round(n (1 - ratio)) of n places, and of at least one.

    Args:
        group_T, seed_T, order_T: As in `random_keep`.
        position_TP: (time, height, width). Tokens of one height and width are a place. A group of
            one place (a series, a single sound) has no tubes: its tokens are hidden one by one.
        ratio: Share of the places to hide.

    Returns:
        (T,) bool.

    Raises:
        ValueError: As `random_keep`.
    """
    one_by_one = random_keep(group_T, seed_T, order_T, ratio)
    if not len(group_T):
        return one_by_one
    segment_T, _ = number_segments(group_T)
    # by height and width alone: all times of a place are one tube
    spot_T = torch.unique(position_TP[:, 1:], dim=0, return_inverse=True)[1]
    tubes, tube_T = torch.unique(torch.stack([segment_T, spot_T], 1), dim=0, return_inverse=True)
    segment_U = tubes[:, 0]
    places = torch.bincount(segment_U)
    number_U = (
        torch.arange(len(segment_U), device=segment_U.device)
        - (places.cumsum(0) - places)[segment_U]
    )  # within its own segment
    seed_U = torch.zeros_like(segment_U).index_copy(0, tube_T, seed_T)
    return torch.where(
        places[segment_T] > 1, random_keep(segment_U, seed_U, number_U, ratio)[tube_T], one_by_one
    )
