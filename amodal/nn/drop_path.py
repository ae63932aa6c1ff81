"""Stochastic depth: a block's update of a row is left out by chance, as a function of the row's
seed.

Huang et al., ECCV 2016, arXiv:1603.09382: block l of L is left out with chance l / (L - 1) times
the rate, and what is left is divided by the chance to stay. Masks follow from the seeds of rows:
the same in a micro-batch, on other processes and after a resume. Blocks that do not learn, such as
a teacher's, leave nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, name_code
from amodal.masking.hashing import uniform

Drop = Callable[[Tensor, int], Tensor]
"""(T, D) what half 0 (attention) or 1 (MLP) of a block adds -> what is left of it."""

_asked: ContextVar[tuple[float, Tensor] | None] = ContextVar("drop_path", default=None)


@contextmanager
def drop_paths(rate: float, seeds_B: Tensor) -> Iterator[None]:
    """Within it, blocks drop updates of rows whose seeds are (B,) int64; a rate of 0 drops none."""
    before = _asked.set((rate, seeds_B) if rate else None)
    try:
        yield
    finally:
        _asked.reset(before)


def whole(x_TD: Tensor, half: int) -> Tensor:
    """Nothing is dropped."""
    return x_TD


def drop_of(
    block: nn.Module, number: int, depth: int, tokens: Tokens, order_T: Tensor | None
) -> Drop:
    """What block `number` of `depth` drops of these tokens, which go through it in `order_T`.

    Raises AmodalError if the tokens are not of the rows of the batch, so that seeds cannot be
    assigned.
    """
    asked = _asked.get()
    if asked is None or not number or not any(p.requires_grad for p in block.parameters()):
        return whole
    rate, seeds_B = asked
    if tokens.size != len(seeds_B):
        raise AmodalError(
            f"drop_path needs one sequence a record, and this method makes {tokens.size} of "
            f"{len(seeds_B)}; leave it out"
        )
    codes = torch.tensor([name_code(name) for name in tokens.names], device=tokens.row.device)
    row, source = tokens.row, codes[tokens.source]
    if order_T is not None:
        row, source = row[order_T], source[order_T]
    return partial(_dropped, rate * number / (depth - 1), seeds_B[row], source, number)


def _dropped(
    rate: float, seeds_T: Tensor, source_T: Tensor, number: int, x_TD: Tensor, half: int
) -> Tensor:
    stays_T = uniform(seeds_T, source_T, 2 * number + half) >= rate
    return x_TD * (stays_T.to(x_TD.dtype) / (1 - rate)).unsqueeze(1)
