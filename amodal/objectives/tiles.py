"""A function of rows, tile by tile, for similarity matrices that must not be held whole."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def by_rows(function: Callable[..., Tensor], *rows: Tensor, tile: int = 256) -> Tensor:
    """`function` over tiles of the rows, concatenated.

    The backward pass computes each tile again, so memory is that of one tile, for any N. For
    plain products `log_sum_exp` is faster: it needs no graph.

    Args:
        function: tensors (t, ...) -> (t, ...). Tensors that it closes over (the other side of a
            similarity matrix) get gradients too.
        rows: one or more tensors of the same length N.
        tile: t at most.

    Returns:
        (N, ...)

    Raises:
        ValueError: lengths differ, or `tile` is below 1.
    """
    if tile < 1 or len({len(r) for r in rows}) != 1:
        raise ValueError(
            "by_rows needs tensors of one length and a tile of at least 1, got "
            f"{[len(r) for r in rows]} and {tile}."
        )
    if len(rows[0]) <= tile or not torch.is_grad_enabled():
        parts = [function(*piece) for piece in zip(*(r.split(tile) for r in rows))]
    else:
        parts = [
            checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in zip(*(r.split(tile) for r in rows))
        ]
    return torch.cat(parts) if len(parts) != 1 else parts[0]
