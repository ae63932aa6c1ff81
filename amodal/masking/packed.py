"""Arithmetic on bags of tokens given by a group id per token, in any order."""

import torch
from torch import Tensor


def number_bags(group_T: Tensor) -> tuple[Tensor, Tensor]:
    """(bag_T, size_G): ids renumbered 0..G-1, and how many tokens each bag holds."""
    _, bag_T = torch.unique(group_T, return_inverse=True)
    return bag_T, torch.bincount(bag_T)


def rank_in_bag(bag_T: Tensor, size_G: Tensor, *keys: Tensor) -> Tensor:
    """Place 0, 1, ... of each token in its bag when sorted by the keys, the last key being the most
    significant."""
    order_T = torch.arange(len(bag_T), device=bag_T.device)
    for key_T in (*keys, bag_T):
        order_T = order_T[key_T[order_T].argsort(stable=True)]
    start_G = size_G.cumsum(0) - size_G
    place_T = torch.arange(len(bag_T), device=bag_T.device) - start_G[bag_T[order_T]]
    return torch.empty_like(place_T).scatter_(0, order_T, place_T)


def check_tokens(**tensors: Tensor) -> None:
    """Raises ValueError unless all have the same number of tokens."""
    lengths = {name: value.shape[0] if value.dim() else None for name, value in tensors.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"one entry per token is needed everywhere, got lengths {lengths}.")
