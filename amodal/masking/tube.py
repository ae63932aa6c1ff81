"""Tubes: a place is hidden at all times or at none, so that it cannot be copied from the moment
before. Tong et al., VideoMAE, NeurIPS 2022, arXiv:2203.12602, section 3.2."""

import torch
from torch import Tensor

from amodal.masking.packed import number_bags
from amodal.masking.random import random_keep


def tube_keep(
    group_T: Tensor, seed_T: Tensor, order_T: Tensor, position_TP: Tensor, ratio: float
) -> Tensor:
    """Which tokens stay visible, bool (T,): those of round(n (1 - ratio)) of the n places that a
    bag has, and of at least one.

    group_T, seed_T, order_T: as in `random_keep`; position_TP: (time, height, width); tokens of one
    height and width are a place. A bag of one place (a series, a single sound) has no tubes: its
    tokens are hidden one by one, as `random_keep` does.

    Raises ValueError as `random_keep` does.
    """
    one_by_one = random_keep(group_T, seed_T, order_T, ratio)
    if not len(group_T):
        return one_by_one
    bag_T, _ = number_bags(group_T)
    spot_T = torch.unique(position_TP[:, 1:], dim=0, return_inverse=True)[1]
    tubes, tube_T = torch.unique(torch.stack([bag_T, spot_T], 1), dim=0, return_inverse=True)
    bag_U = tubes[:, 0]
    places = torch.bincount(bag_U)
    number_U = (
        torch.arange(len(bag_U), device=bag_U.device) - (places.cumsum(0) - places)[bag_U]
    )  # within its own bag
    seed_U = torch.zeros_like(bag_U).index_copy(0, tube_T, seed_T)
    return torch.where(
        places[bag_T] > 1, random_keep(bag_U, seed_U, number_U, ratio)[tube_T], one_by_one
    )
