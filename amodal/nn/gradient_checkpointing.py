"""Activation checkpointing: of a block only its input is kept, and the rest is computed again when
its gradient is wanted.

Chen et al. 2016, arXiv:1604.06174, by torch.utils.checkpoint. It costs one more forward pass of the
blocks and changes no number: random generators are put back for the second pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class _Asked(threading.local):
    """Whether this thread asks for it. A compiler can read it, which it cannot do of a context
    variable."""

    on = False


_asked = _Asked()
Output = TypeVar("Output")


@contextmanager
def recomputation(on: bool = True) -> Iterator[None]:
    """Within it, blocks that are to be learned through keep their inputs alone. Nothing changes
    where there is no gradient."""
    before, _asked.on = _asked.on, on
    try:
        yield
    finally:
        _asked.on = before


def recomputed(compute: Callable[..., Output], x: Tensor, *rest) -> Output:
    """compute(x, *rest), perhaps a second time in the backward pass: so it must change nothing but
    what it returns, and depend on nothing that changes before that. x: on the device of all that is
    random in it."""
    if not (_asked.on and torch.is_grad_enabled()):
        return compute(x, *rest)
    if torch.compiler.is_compiling():  # a block that is compiled has no other inside
        return checkpoint(lambda x: compute(x, *rest), x, use_reentrant=False)

    def once(*args) -> Output:  # parts of it are not cut into pieces again, in neither pass
        with recomputation(False):
            return compute(*args)

    return checkpoint(once, x, *rest, use_reentrant=False, preserve_rng_state=True)
