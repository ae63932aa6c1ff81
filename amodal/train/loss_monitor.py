"""What a step's loss came to, read without keeping a GPU waiting: a step later, when it has long
arrived.

So a loss or a gradient that is not finite is noticed one step after it was; what could keep or
report something of such a step looks at once, and a step that fails is looked at before its error
is believed. Nothing damaged is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from amodal.train.collapse_monitor import Stopped
from amodal.train.step import total


class Numbers:
    """The loss of a step, its terms and the norm of its gradient, on their way from the device.
    Reading them waits until they are here."""

    def __init__(self, step: int, terms: dict[str, Tensor], norm: Tensor):
        self.step, self.names = step, tuple(terms)
        values = torch.stack([total(terms), norm, *terms.values()])
        self._values = values.to(
            "cpu", non_blocking=values.is_cuda
        )  # into pinned memory, and the next step can begin
        self._arrived = (
            torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None
        )

    @cached_property
    def _read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()

    @property
    def loss(self) -> float:
        return self._read[0]

    @property
    def norm(self) -> float:
        return self._read[1]

    @property
    def terms(self) -> dict[str, float]:
        return dict(zip(self.names, self._read[2:]))

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Finite:
    """Watches that losses and gradients stay finite. stopped: numbers that are not -> what to tell."""

    def __init__(self, stopped: Callable[[Numbers], str]):
        self.stopped, self.last = stopped, None
        self.loss = math.nan
        """Of the last step that was looked at."""

    def note(self, numbers: Numbers) -> None:
        """Look at the step before, and remember this one."""
        self.look()
        self.last = numbers

    def look(self) -> None:
        """Raises Stopped if the last step came to no number."""
        if self.last is None:
            return
        if not self.last.finite:
            numbers, self.last = self.last, None
            raise Stopped(self.stopped(numbers))
        self.loss = self.last.loss

    def __enter__(self) -> Finite:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if isinstance(error, Exception):  # it may only be what NaN led to
            self.look()
