"""Windows of tokens as rows of their own, so that a network sees nothing outside of a window."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amodal.core import Tokens


def local_windows(tokens: Tokens, parts: int) -> tuple[Tokens, Tensor]:
    """Cut the tokens of each row into windows.

    The box around a row's positions is cut into `parts` equal pieces along each axis that it
    extends along: time for series, height and width for images.

    Args:
        tokens: Of any rows.
        parts: Pieces along an axis.

    Returns:
        The tokens as they are, positions too, but with a row for each window that has tokens; and
        (R,) int64, ascending, the row that each of the R windows is of.
    """
    index = tokens.row[:, None].expand_as(tokens.position)
    box = tokens.position.new_zeros(tokens.size, tokens.position.shape[1])
    low = box.scatter_reduce(0, index, tokens.position, "amin", include_self=False)
    span = box.scatter_reduce(0, index, tokens.position, "amax", include_self=False) - low
    # 0 / 0 along an axis that a row does not extend along
    share = ((tokens.position - low[tokens.row]) / span[tokens.row]).nan_to_num()
    place = (share * parts).long().clamp(0, parts - 1)
    code = tokens.row
    # row and places as the digits of one number, the row being the highest
    for axis in place.unbind(1):
        code = code * parts + axis
    codes, number = torch.unique(code, return_inverse=True)
    order = torch.argsort(number, stable=True)
    windows = replace(tokens.at(order), row=number[order], size=len(codes))
    # without the digits of the places the row is left
    return windows, codes // parts ** place.shape[1]
