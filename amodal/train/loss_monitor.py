"""The loss of each step, read without making a GPU wait.

It is read one step later, when it has long arrived on the CPU. A loss or gradient that is not
finite is therefore noticed one step late. Whatever could save or report such a step checks at once,
and a step that fails is checked before its error is raised. So nothing damaged is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType, TracebackType

import torch
from torch import Tensor

from amodal.train.collapse_monitor import TrainingStopped
from amodal.train.step import total


class StepLosses:
    """The loss of a step, its terms and its gradient norm, on their way from the device.

    Reading an attribute waits until they have arrived.

    Args:
        nan_outputs: What made features -> () bool, whether any of them was NaN.
    """

    def __init__(
        self,
        step: int,
        terms: dict[str, Tensor],
        norm: Tensor,
        nan_outputs: Mapping[str, Tensor] = MappingProxyType({}),
    ):
        self.step, self.names, self.sources = step, tuple(terms), tuple(nan_outputs)
        whole, flags = total(terms), nan_outputs.values()
        values = torch.stack([whole, norm, *terms.values(), *(f.to(whole) for f in flags)])
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

    def cause(self, lr: float) -> str:
        """Why it may not be finite, and what to do.

        Args:
            lr: The learning rate.
        """
        flags = self._read[2 + len(self.names) :]
        for source, flag in zip(self.sources, flags):
            if flag:
                return (
                    f"the output of {source} is NaN, and so is the loss. Look for a division by "
                    "zero, a log or a root in its forward, or a NaN in its weights"
                )
        terms = ", ".join(f"{k} {v:.3g}" for k, v in self.terms.items())
        return (
            f"the loss is {self.loss} and the gradient norm {self.norm:.3g} (terms: {terms}). A "
            f"lower learning rate (--lr, now {lr:g}) or --precision float32 may help"
        )

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
