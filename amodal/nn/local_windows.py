"""Neighbourhoods of tokens as rows of their own, so that what a network says of one has seen
nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amodal.core import Tokens


def neighbourhoods(bag: Tokens, parts: int) -> tuple[Tokens, Tensor]:
    """(the tokens with each neighbourhood a row, (R,) int64 ascending: the row that each belongs
    to).

    The box around the positions of a row's tokens is cut into `parts` equal pieces along each axis
    that it extends along: time for series, height and width for pictures. Pieces without a token
    are no neighbourhoods; the tokens stay as they are, positions too.
    """
    index = bag.row[:, None].expand_as(bag.position)
    box = bag.position.new_zeros(bag.size, bag.position.shape[1])
    low = box.scatter_reduce(0, index, bag.position, "amin", include_self=False)
    span = box.scatter_reduce(0, index, bag.position, "amax", include_self=False) - low
    share = (bag.position - low[bag.row]) / span[bag.row].clamp_min(1e-12)
    place = (share * parts).long().clamp(0, parts - 1)
    code = bag.row
    for axis in place.unbind(1):
        code = code * parts + axis
    found, number = torch.unique(code, return_inverse=True)
    order = torch.argsort(number, stable=True)
    return replace(
        bag.at(order), row=number[order], size=len(found)
    ), found // parts ** place.shape[1]
