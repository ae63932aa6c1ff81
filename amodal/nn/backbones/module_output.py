"""What a module of the user's own makes of values: checked, with its mistakes in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.user_code import user_code


@contextmanager
def forward_of(what: str) -> Iterator[None]:
    """What a module raises becomes an error that names its line.

    Args:
        what: The module, such as "the backbone mine.Net of the field 'photo'".

    Raises:
        UserCodeError: Of what it raises. Errors of torch's own types pass: that there is no memory,
            and what ends a recomputation.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__.partition(".")[0] == "torch":
            raise
        with user_code(what):
            raise


def tokens_of(out: object, rows: int, device: torch.device, what: str) -> Tensor:
    """(N, T, D) of what a module returned for N values.

    Args:
        out: (N, D), (N, T, D) or (N, D, H, W).
        rows: N.
        device: Of the values.
        what: As of `forward_of`.

    Raises:
        AmodalError: It returned something else.
    """
    if not isinstance(out, Tensor) or out.dim() not in (2, 3, 4):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise AmodalError(
            f"{what} gave {shape}; expected a tensor (N, D), (N, T, D) or maps (N, D, H, W)"
        )
    if not out.is_floating_point():
        kind = str(out.dtype).removeprefix("torch.")
        raise AmodalError(
            f"{what} gave {kind} numbers; expected real ones, such as out.float() or an "
            "nn.Embedding of codes"
        )
    if out.device != device:
        raise AmodalError(f"{what} gave a tensor on {out.device}; its values are on {device}")
    if len(out) != rows:
        count = "1 value" if rows == 1 else f"{rows} values"
        raise AmodalError(
            f"{what} gave {tuple(out.shape)} for {count}; its first dimension must be N = "
            f"{rows}, a row for each value"
        )
    if out.dim() == 4:
        out = out.flatten(2).transpose(1, 2)
    return out.unsqueeze(1) if out.dim() == 2 else out


def check_has_values(module: nn.Module, what: str) -> None:
    """Raise AmodalError for a module with tensors on the meta device."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if empty is not None:
        raise AmodalError(
            f"{what} is on the meta device, where {empty} has no values; make it on the CPU, "
            "and load its weights there"
        )


class NanFlag:
    """Whether tensors had a NaN, held where they are: to ask a GPU would make the CPU wait."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Look at one more tensor."""
        new = x.detach().isnan().any()
        same = self.value is not None and self.value.device == new.device
        self.value = self.value | new if same and self.value is not None else new

    def take(self) -> Tensor | None:
        """() bool since the last call, None if there was no tensor."""
        found, self.value = self.value, None
        return found


@runtime_checkable
class HasNanFlag(Protocol):
    """A backbone that looks for NaN in what it makes."""

    nan: NanFlag
    described_as: str


class NanFlags:
    """Those of all backbones of the user's own in a method."""

    def __init__(self, method: nn.Module):
        self.backbones = [m for m in method.modules() if isinstance(m, HasNanFlag)]

    def take(self) -> dict[str, Tensor]:
        """ "the backbone NAME of the field FIELD" -> () bool, of those that ran since the last
        call."""
        taken: dict[str, Tensor] = {}
        for backbone in self.backbones:
            what, found = backbone.described_as, backbone.nan.take()
            if found is not None:  # of a moving average beside it too
                taken[what] = found | taken[what] if what in taken else found
        return taken


def as_weights(x: Tensor, weight: Tensor) -> Tensor:
    """Features in the precision of the weights that they meet, which autocast does by itself."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype == torch.get_autocast_dtype(device):
        return x
    return x.to(weight.dtype)
