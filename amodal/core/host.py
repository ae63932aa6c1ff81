"""What the CPU knows of tensors that lie on another device.

How long values are, and which rows have them, decides how a network is called: the CPU has to know
it. Asking a GPU for it makes the CPU wait until the GPU has done all it was sent before. So where
such a tensor was made on the CPU, its copy there stays known for as long as the tensor lives, and
what follows from it is computed on the CPU and sent, never fetched.

On a CPU every function here is the plain operation: a tensor is its own copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_copies = WeakTensorKeyDictionary()
"""Tensor on a device -> (its version then, the same numbers on the CPU or what makes them)."""

Copy = Tensor | Callable[[], Tensor | None] | None


def _version(t: Tensor) -> int:
    return -1 if t.is_inference() else t._version


def known(t: Tensor) -> Tensor | None:
    """The numbers of `t` on the CPU, if they are known there without asking its device."""
    if t.device.type == "cpu":
        return t
    version, copy = _copies.get(t, (None, None))
    if version != _version(t):  # never known, or changed in place since
        return None
    if copy is not None and not isinstance(copy, Tensor):
        copy = copy()
        _copies[t] = version, copy
    return copy


def host_copy(t: Tensor) -> Tensor:
    """The numbers of `t` on the CPU; waits for its device where they are not known yet."""
    copy = known(t)
    if copy is None:
        copy = t.detach().cpu()
        paired(t, copy)
    return copy


def paired(t: Tensor, copy: Copy) -> Tensor:
    """`t`, of which from now on `copy` is known to be the same on the CPU. copy: or what makes it
    when it is asked for; None for nothing known."""
    if copy is not None and t.device.type != "cpu":
        _copies[t] = _version(t), copy
    return t


def to_device(t: Tensor, device: torch.device | str) -> Tensor:
    """`t` on a device, sent there without waiting; what the CPU knows of it, it goes on knowing."""
    device = torch.device(device)
    copy = known(t)
    if device.type == "cpu":
        return t.to(device) if copy is None else copy
    # from ordinary memory a copy has left it when the call returns, so that nobody can overwrite it
    # on its way
    return paired(t.to(device, non_blocking=True), copy)


def on_host(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`compute` of what the CPU knows of tensors that are all on one device, sent there."""
    return to_device(compute(*map(host_copy, tensors)), tensors[0].device)


def constant(
    numbers: Sequence | float | int | bool, like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers of Python beside `like`: on its device, and of its type unless another is named."""
    return to_device(torch.tensor(numbers, dtype=dtype or like.dtype), like.device)


def take(t: Tensor, index: Tensor) -> Tensor:
    """`t[index]` along its first dimension.

    Args:
        t: (T, ...), on any device.
        index: (n,) int64, or (T,) bool where true; on the CPU or on the device of `t`.

    Returns: (n, ...) on the device of `t`. What the CPU knows of both, it knows of the result.
    """
    if index.dtype is torch.bool:
        index = to_device(host_copy(index).nonzero().squeeze(1), t.device)
    elif index.device != t.device:
        index = to_device(index, t.device)
    taken = t[index]
    if t.device.type == "cpu":
        return taken

    def on_cpu() -> Tensor | None:
        copy, place = known(t), known(index)
        return None if copy is None or place is None else copy[place]

    return paired(taken, on_cpu if t in _copies and index in _copies else None)


def where_true(mask: Tensor) -> Tensor:
    """(n,) int64 where a (T,) mask is true or a number not zero, on its device."""
    return on_host(lambda m: m.nonzero().squeeze(1), mask)
