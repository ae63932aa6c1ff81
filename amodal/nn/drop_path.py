"""Drop path: the update of a row by a block is left out at random, as a function of the row's seed.

Stochastic depth, Huang et al., ECCV 2016, arXiv:1603.09382: block l of L (from 0) is left out with
probability l / (L - 1) times the rate; an update that stays is divided by its probability to stay.
Masks follow from the seeds of rows, so they are the same in a micro-batch, on other processes and
after a resume. Frozen blocks, such as a teacher's, leave nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, name_code, view_of
from amodal.core.embeddings import FUSED
from amodal.core.within import within
from amodal.masking.hashing import uniform

Drop = Callable[[Tensor, int], Tensor]
"""((T, D) update of a block, 0 for its attention or 1 for its MLP) -> what is left of it."""

# A context variable, so that the many modules between the loop and a block need no argument for it.
_setting: ContextVar[tuple[float, Tensor] | None] = ContextVar("drop_path", default=None)
_views: ContextVar[tuple[int, ...]] = ContextVar("views_side_by_side", default=())


@contextmanager
def drop_paths(rate: float, seeds_B: Tensor) -> Iterator[None]:
    """Drop updates of rows in the blocks that are called within this context.

    Args:
        rate: Of the last block, from 0 (none) to below 1.
        seeds_B: (B,) int64, the seeds of the rows.

    Raises:
        AmodalError: For a rate out of range.
    """
    check_rate("drop_path", rate)
    with within(_setting, (rate, seeds_B) if rate else None):
        yield


@contextmanager
def side_by_side(views: Sequence[int]) -> Iterator[None]:
    """Say that the tokens of blocks within this context are sequences side by side: rows 0 to B - 1
    are those of the first, B to 2 B - 1 those of the second.

    Args:
        views: The number of the view that each sequence is of, see `amodal.core.view_of`. Two views
            of a row have draws of their own.
    """
    with within(_views, tuple(views)):
        yield


def check_rate(name: str, rate: float) -> None:
    """Raise an AmodalError for a rate that is none."""
    if not 0 <= rate < 1:
        raise AmodalError(f"{name} is a probability from 0 to below 1, not {rate}")


def identity(x_TD: Tensor, half: int) -> Tensor:
    """The `Drop` that leaves nothing out."""
    return x_TD


def drop_of(
    block: nn.Module, number: int, depth: int, tokens: Tokens, order_T: Tensor | None
) -> Drop:
    """The drop of one block under the current `drop_paths`.

    Args:
        block: The block; frozen ones drop nothing.
        number: Its number in the trunk, from 0.
        depth: Blocks of the trunk.
        tokens: What enters it.
        order_T: (T,) the order in which the block sees them; None for theirs.

    Raises:
        AmodalError: If the rows of the tokens are not those of the batch, and so have no seeds.
    """
    setting = _setting.get()
    # block 0 is never left out, by the formula; so depth - 1 is not zero below
    if setting is None or not number or not any(p.requires_grad for p in block.parameters()):
        return identity
    rate, seeds_B = setting
    row, source = row_and_source(tokens, len(seeds_B), "drop_path")
    if order_T is not None:
        row, source = row[order_T], source[order_T]
    return partial(_dropped, rate * number / (depth - 1), seeds_B[row], source, number)


def row_and_source(tokens: Tokens, size: int, wanted: str) -> tuple[Tensor, Tensor]:
    """The row of the batch, and the code of the source, of each token under `side_by_side`.

    Args:
        tokens: What enters a block.
        size: B, rows of the batch.
        wanted: What needs them, for messages.

    Returns:
        (T,) int64 and (T,) int64.

    Raises:
        AmodalError: If the rows of the tokens are not those of the batch.
    """
    views = _views.get() or (0,)
    if tokens.size != size * len(views):
        raise AmodalError(
            f"{wanted} needs one sequence a record, and this method makes {tokens.size} of "
            f"{size}; leave it out"
        )
    # by name: the number of a source depends on which others the batch has
    codes = torch.tensor(
        [[name_code(_of_view(name, view)) for name in tokens.names] for view in views],
        device=tokens.row.device,
    )
    sequence = torch.div(tokens.row, size, rounding_mode="floor")
    return tokens.row - sequence * size, codes[sequence, tokens.source]


def _of_view(name: str, view: int) -> str:
    """The name of a source of a view. Side by side, sources have the names of their fields."""
    return name if not view or name == FUSED or view_of(name) else f"{name}:{view}"


def _dropped(
    rate: float, seeds_T: Tensor, source_T: Tensor, number: int, x_TD: Tensor, half: int
) -> Tensor:
    # a stream for each half of each block; all tokens of a row's source have one draw, so all stay
    # or go
    stays_T = uniform(seeds_T, source_T, 2 * number + half) >= rate
    return x_TD * (stays_T.to(x_TD.dtype) / (1 - rate)).unsqueeze(1)
