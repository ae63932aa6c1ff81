"""A limit on what may be built from a description that somebody else wrote: a line in a config.json
must not fill the memory."""

from __future__ import annotations

import math

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
"""Beside what a file holds: tables of positions, what initialisers use on the way."""


class Bounded(TorchFunctionMode):
    """Inside, tensors can be made only about as many and as large as in a file of `tensors` tensors
    with `numbers` numbers together. Raises AmodalError beyond that, before the memory is asked for.
    what: the description, for the error."""

    def __init__(self, tensors: int, numbers: int, what: str):
        super().__init__()
        self.tensors, self.numbers = SLACK_TENSORS + 16 * tensors, SLACK_NUMBERS + TIMES * numbers
        self.stored, self.what = numbers, what

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in MAKE:
            self.tensors -= 1
            self.numbers -= _count(func, args, kwargs or {})
            if self.tensors < 0 or self.numbers < 0:
                raise AmodalError(
                    f"{self.what} describes a far larger model than the {self.stored:,} numbers of its weights. It was changed, or is of "
                    "another run: restore it from a copy, or train again."
                )
        return func(*args, **(kwargs or {}))


def _count(func, args: tuple, kwargs: dict) -> int:
    """Numbers in the tensor that a factory is asked for."""
    given = [
        a
        for a in (*args, *(kwargs.get(name) for name in ("size", "end", "steps", "n", "m")))
        if a is not None
    ]
    if func in (torch.arange, torch.linspace):
        return int(max((abs(a) for a in given if isinstance(a, (int, float))), default=0))
    if func is torch.eye:
        return int(math.prod(given) if len(given) > 1 else given[0] ** 2)
    size = given[0] if given and isinstance(given[0], (tuple, list, torch.Size)) else given
    return math.prod(int(s) for s in size)
