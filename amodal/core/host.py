"""CPU copies of index tensors that lie on another device.

Lengths and row numbers decide how a network is called, so the CPU needs them. Fetching them from a
GPU would wait for all work queued there. So the CPU copy of a tensor that was made on the CPU is
held as long as the tensor lives. Whatever follows from it is computed on the CPU and sent to the
device, never fetched.

On a CPU every function here is the plain operation: a tensor is its own copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_copies = WeakTensorKeyDictionary()
"""Tensor on a device -> its version at the time, and its CPU copy or a function that makes it."""

Copy = Tensor | Callable[[], Tensor | None] | None


def _version(t: Tensor) -> int:
    # tensors of `torch.inference_mode` do not count their versions
    return -1 if t.is_inference() else t._version


def known(t: Tensor) -> Tensor | None:
    """The CPU copy of `t`, None if there is none."""
    if t.device.type == "cpu":
        return t
    missing: tuple[int | None, Copy] = (None, None)
    entry: tuple[int | None, Copy] = _copies.get(t, missing)
    version, copy = entry
    if version != _version(t):  # no copy, or one from before a change in place
        return None
    if copy is not None and not isinstance(copy, Tensor):
        copy = copy()
        _copies[t] = version, copy
    return copy


def host_copy(t: Tensor) -> Tensor:
    """The CPU copy of `t`. Without one it waits for the device."""
    copy = known(t)
    if copy is None:
        copy = t.detach().cpu()
        paired(t, copy)
    return copy


def paired(t: Tensor, copy: Copy) -> Tensor:
    """Register a CPU copy of `t`, and return `t`.

    Args:
        copy: The copy, or a function that makes it when it is needed; None for no copy.
    """
    if copy is not None and t.device.type != "cpu":
        _copies[t] = _version(t), copy
    return t


def to_device(t: Tensor, device: torch.device | str) -> Tensor:
    """`t` on a device, sent without waiting, with its CPU copy if there is one."""
    device = torch.device(device)
    copy = known(t)
    if device.type == "cpu":
        return t.to(device) if copy is None else copy
    # from pageable memory the transfer has left it when the call returns, so that changing `t`
    # afterwards is safe
    return paired(t.to(device, non_blocking=True), copy)


def on_host(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call `compute` with the CPU copies of tensors on one device, and send the result there."""
    return to_device(compute(*map(host_copy, tensors)), tensors[0].device)


def constant(
    numbers: Sequence[object] | float | int | bool,
    like: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Python numbers as a tensor on the device of `like`, by default of its dtype."""
    return to_device(torch.tensor(numbers, dtype=dtype or like.dtype), like.device)


def take(t: Tensor, index: Tensor) -> Tensor:
    """`t[index]` along its first dimension.

    Args:
        t: (T, ...), on any device.
        index: (n,) int64, or (T,) bool; on the CPU or on the device of `t`.

    Returns:
        (n, ...) on the device of `t`. It has a CPU copy if `t` and `index` have one.
    """
    if index.dtype is torch.bool:
        index = to_device(host_copy(index).nonzero().squeeze(1), t.device)
    elif index.device != t.device:
        index = to_device(index, t.device)
    taken = t[index]
    if t.device.type == "cpu":
        return taken

    # as a function: most of what is taken on a device is never read on the CPU
    def on_cpu() -> Tensor | None:
        copy, index_copy = known(t), known(index)
        return None if copy is None or index_copy is None else copy[index_copy]

    return paired(taken, on_cpu if t in _copies and index in _copies else None)


def where_true(mask: Tensor) -> Tensor:
    """(n,) int64, the indices where a (T,) mask is true, or a number is not zero."""
    return on_host(lambda m: m.nonzero().squeeze(1), mask)
