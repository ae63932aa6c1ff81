"""Gradient checkpointing: a block stores only its input, and is computed again for the gradient.

Chen et al. 2016, arXiv:1604.06174, by torch.utils.checkpoint. It costs one more forward pass of the
blocks and changes no number: random generators are put back for the second pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class _Setting(threading.local):
    """Whether this thread checkpoints. A compiler can read it, other than a context variable."""

    on = False

    def switch(self, on: bool) -> bool:
        """Set it, and return what it was."""
        before, self.on = self.on, on
        return before


_setting = _Setting()
Output = TypeVar("Output")


@contextmanager
def recomputation(on: bool = True) -> Iterator[None]:
    """Checkpoint blocks within this context; without gradients nothing changes."""
    before = _setting.switch(on)
    try:
        yield
    finally:
        _setting.switch(before)


def recomputed(compute: Callable[..., Output], x: Tensor, *rest: Any) -> Output:
    """compute(x, *rest), checkpointed if `recomputation` is on.

    Args:
        compute: May run a second time in the backward pass. So it must have no side effect, and
            depend on nothing that changes before that.
        x: On the device of all random numbers in it.
        rest: Other arguments.
    """
    if not (_setting.on and torch.is_grad_enabled()):
        return compute(x, *rest)
    if torch.compiler.is_compiling():  # a block that is compiled has no other inside
        inner = checkpoint(lambda x: compute(x, *rest), x, use_reentrant=False)
        return cast(Output, inner)

    def once(*args: Any) -> Output:  # parts of it are not cut into pieces again, in neither pass
        with recomputation(False):
            return compute(*args)

    result = checkpoint(once, x, *rest, use_reentrant=False, preserve_rng_state=True)
    return cast(Output, result)
