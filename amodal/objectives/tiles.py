"""A function of rows, tile by tile, for similarity matrices that must not be held whole."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def by_rows(function: Callable[..., Tensor], *rows: Tensor, tile: int = 256) -> Tensor:
    """`function(*tiles)` for tiles of at most `tile` along the first dimension of `rows`, end to
    end.

    function:  tensors (t, ...) -> (t, ...); what it closes over (the other side of a similarity
               matrix) gets its gradient too.
    rows:      one or more tensors of the same length N.

    The backward pass computes each tile again, so memory is that of one tile, whatever N. For plain
    products `log_sum_exp` is faster: it needs no graph. Raises ValueError for unequal lengths or a
    tile below 1.
    """
    if tile < 1 or len({len(r) for r in rows}) != 1:
        raise ValueError(
            f"by_rows needs tensors of one length and a tile of at least 1, got {[len(r) for r in rows]} and {tile}."
        )
    if len(rows[0]) <= tile or not torch.is_grad_enabled():
        parts = [function(*piece) for piece in zip(*(r.split(tile) for r in rows))]
    else:
        parts = [
            checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in zip(*(r.split(tile) for r in rows))
        ]
    return torch.cat(parts) if len(parts) != 1 else parts[0]
