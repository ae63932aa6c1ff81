"""A limit on what a stranger's config.json may build: it must not fill the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from amodal.core import AmodalError

MAKE = {
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.full,
    torch.eye,
    torch.arange,
    torch.linspace,
}
SLACK_TENSORS, SLACK_NUMBERS, TIMES = 1000, 2**24, 4
"""Beside what a file holds: tables of positions, what initialisers use on the way.

Wide on purpose, as a refused run is worse than one read in vain: opening the stored runs of the
tests makes at most 4 tensors and 772 numbers more than their files hold, and 2**24 are 64 MiB.
"""


class Bounded(TorchFunctionMode):
    """Inside, only about as many and as large tensors can be made as a file has.

    Args:
        tensors: Tensors in the file.
        numbers: Numbers in all of them.
        what: The description, for messages.

    Raises:
        AmodalError: Beyond that, before the memory is allocated.
    """

    def __init__(self, tensors: int, numbers: int, what: str):
        super().__init__()
        self.tensors, self.numbers = SLACK_TENSORS + 16 * tensors, SLACK_NUMBERS + TIMES * numbers
        self.stored, self.what = numbers, what

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in MAKE:
            self.tensors -= 1
            self.numbers -= _count(func, args, kwargs or {})
            if self.tensors < 0 or self.numbers < 0:
                raise AmodalError(
                    f"{self.what} describes a far larger model than the {self.stored:,} numbers of "
                    "its weights. It was changed, or is of "
                    "another run: restore it from a copy, or train anew."
                )
        return func(*args, **(kwargs or {}))


def _count(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Numbers in the tensor that a factory makes."""
    sizes = [
        a
        for a in (*args, *(kwargs.get(name) for name in ("size", "end", "steps", "n", "m")))
        if a is not None
    ]
    if func in (torch.arange, torch.linspace):
        return int(max((abs(a) for a in sizes if isinstance(a, (int, float))), default=0))
    if func is torch.eye:
        return int(math.prod(sizes) if len(sizes) > 1 else sizes[0] ** 2)
    size = sizes[0] if sizes and isinstance(sizes[0], (tuple, list, torch.Size)) else sizes
    return math.prod(int(s) for s in size)
