"""Maps of patch vectors at another number of patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amodal.core import AmodalError, Tokens
from amodal.core.column import spans
from amodal.core.host import host_copy, to_device
from amodal.nn.axial import places

Shape = tuple[int, int]


def resized_maps(tokens: Tokens, like: Tokens) -> Tensor:
    """The vectors of patches, by bicubic interpolation where other tokens of their rows have them.

    Args:
        tokens: Of one source, x (S, D); of each row a whole grid, in reading order.
        like: Tokens (T) of the same rows on a grid of their own.

    Returns:
        (T, D); x as it is where every row has as many tokens on both sides.

    Raises:
        AmodalError: For rows of different lengths that are not whole grids.
    """
    lengths, wanted = host_copy(tokens.lengths()), host_copy(like.lengths())
    if torch.equal(lengths, wanted):
        return tokens.x
    shapes, others = _shapes(tokens), _shapes(like)
    alike: dict[tuple[Shape, Shape], list[int]] = {}
    for row, pair in enumerate(zip(shapes, others)):
        if lengths[row]:
            alike.setdefault(pair, []).append(row)
    out_TD = tokens.x.new_empty(len(like), tokens.x.shape[1])
    for ((height, width), shape), found in alike.items():
        rows = torch.tensor(found)
        index = to_device(_places_of(rows, lengths), tokens.x.device)
        map_NDHW = tokens.x[index].view(len(rows), height, width, -1).permute(0, 3, 1, 2)
        resized = interpolate(map_NDHW, size=shape, mode="bicubic", align_corners=False)
        index = to_device(_places_of(rows, wanted), tokens.x.device)
        out_TD[index] = resized.flatten(2).mT.flatten(0, 1)
    return out_TD


def _places_of(rows: Tensor, lengths: Tensor) -> Tensor:
    """The numbers of the tokens of some rows, row after row."""
    return spans((lengths.cumsum(0) - lengths)[rows], lengths[rows])


def _shapes(tokens: Tokens) -> list[Shape]:
    """Rows and columns of patches of each row of the batch."""
    position_TP, row_T = host_copy(tokens.position), host_copy(tokens.row)
    high, wide = (
        places(x_T, row_T, tokens.size).long().tolist() for x_T in position_TP[:, 1:].unbind(1)
    )
    lengths = host_copy(tokens.lengths()).tolist()
    for h, w, n in zip(high, wide, lengths):
        if h * w != n:
            raise AmodalError(
                f"{tokens.names[0]} has {n} tokens in {h} rows and {w} columns, which are no map: "
                "only maps of patches can be resized"
            )
    return list(zip(high, wide))
