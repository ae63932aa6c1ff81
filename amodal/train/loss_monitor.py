"""The loss of each step, read without making a GPU wait.

It is read one step later, when it has long arrived on the CPU. A loss or gradient that is not
finite is therefore noticed one step late. Whatever could save or report such a step checks at once,
and a step that fails is checked before its error is raised. So nothing damaged is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from types import TracebackType

import torch
from torch import Tensor

from amodal.train.collapse_monitor import TrainingStopped
from amodal.train.step import total


class StepLosses:
    """The loss of a step, its terms and its gradient norm, on their way from the device.

    Reading an attribute waits until they have arrived.
    """

    def __init__(self, step: int, terms: dict[str, Tensor], norm: Tensor):
        self.step, self.names = step, tuple(terms)
        values = torch.stack([total(terms), norm, *terms.values()])
        # into pinned memory, so that the next step can begin
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._arrived = (
            torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None
        )

    @cached_property
    def _read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers

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


class LossMonitor:
    """Stops a run whose loss or gradient is not finite.

    Args:
        message: The losses of the failed step -> the text of the error.

    Attributes:
        loss: Of the last step that was checked.
    """

    def __init__(self, message: Callable[[StepLosses], str]):
        self.message = message
        self.last: StepLosses | None = None
        self.loss = math.nan

    def update(self, step_losses: StepLosses) -> None:
        """Check the step before, and hold this one for the next check."""
        self.check()
        self.last = step_losses

    def check(self) -> None:
        """Check the last step.

        Raises:
            TrainingStopped: If its loss or its gradient is not finite.
        """
        if self.last is None:
            return
        if not self.last.finite:
            failed, self.last = self.last, None
            raise TrainingStopped(self.message(failed))
        self.loss = self.last.loss

    def __enter__(self) -> LossMonitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # a NaN may have caused it
            self.check()
