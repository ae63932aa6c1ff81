"""A device that only this process knows: tensors on it lie on the CPU, and whatever would make a
CPU wait for a GPU is counted.

On a GPU a step is fast where the CPU runs ahead of it. Reading a number of a tensor, `nonzero`, a
mask as an index, or a copy that is not asynchronous makes it wait. `Counter` sees each of them, and
raises where tensors of two devices meet, as CUDA does.
"""

from __future__ import annotations

import traceback
from collections import Counter as Tally

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

try:
    from torch.utils.backend_registration import (
        _setup_privateuseone_for_python_backend as _register,
    )
except ImportError:  # torch before 2.10 has no devices written in Python
    _register = None

NAME = "counted"
aten = torch.ops.aten

WAITS = {
    "nonzero", "_local_scalar_dense", "item", "equal", "is_nonzero", "masked_select", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "histc",
}  # fmt: skip
"""Operators whose result's shape or value has to be read by the CPU."""


class OnDevice(torch.Tensor):
    """A tensor whose `device` is the counted one and whose numbers are in `held`, on the CPU."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `Counter`")


def available() -> bool:
    return _register is not None


if _register is not None:
    _register(NAME)
    DEVICE = torch.device(NAME, 0)


class _Literals(TorchFunctionMode):
    """Makes tensors of numbers on the CPU and sends them, as torch itself does it where no mode can
    see."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
        elif func is torch.Tensor.new_tensor:
            device, kwargs = args[0].device, {"dtype": args[0].dtype} | kwargs
            func, args = torch.tensor, args[1:]
        elif func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].to("cpu").tolist()
        else:
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


class Counter(TorchDispatchMode):
    """Within it the device exists. waits: where the CPU waited for it -> how many times."""

    def __init__(self):
        super().__init__()
        self.waits: Tally[str] = Tally()
        self.literals = _Literals()

    def __enter__(self):
        self.literals.__enter__()
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self.literals.__exit__(*raised)

    def total(self) -> int:
        return self.waits.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat = pytree.tree_leaves((args, kwargs))
        ours = [t for t in flat if isinstance(t, OnDevice)]
        wanted = kwargs.get("device")
        to_device = wanted is not None and torch.device(wanted).type == NAME
        if not ours and not to_device:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        others = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, OnDevice)]
        leaves = wanted is not None and not to_device
        self._count(name, func, args, kwargs, ours, others, leaves, to_device)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = pytree.tree_map_only(OnDevice, lambda t: t.held, (args, kwargs))
        if name == "_to_copy" or name == "to":
            inner_kwargs.pop("non_blocking", None)
        result = func(*inner_args, **inner_kwargs)
        if leaves:
            return result
        if func._schema.is_mutable and name.endswith("_") and isinstance(args[0], torch.Tensor):
            return args[0]
        if name == "copy_":
            return args[0]
        return pytree.tree_map_only(torch.Tensor, lambda t: self._wrapped(t, ours), result)

    def _wrapped(self, t, ours):
        same = [o for o in ours if o.held is t]
        return same[0] if same else OnDevice(t)

    def _count(self, name, func, args, kwargs, ours, others, leaves, to_device):
        asynchronous = bool(kwargs.get("non_blocking"))
        mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            i is not None and i.dtype is torch.bool for i in args[1]
        )
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        copied = (leaves and ours) or (to_device and others)
        if name == "copy_" and others:
            copied, asynchronous = True, bool(len(args) > 2 and args[2])
        if name in WAITS or mask or unsized or (copied and not asynchronous):
            self.waits[f"{name} at {_place()}"] += 1
        if others and not copied and not leaves:
            indices = name in ("index", "index_put", "index_put_", "_index_put_impl_")
            wrong = [t for t in others if t.dim()]
            if wrong and indices:  # CUDA takes indices from the CPU, and waits for them
                self.waits[f"{name} by an index on the CPU at {_place()}"] += 1
            elif wrong:
                raise RuntimeError(
                    f"{name} of tensors of two devices: {[tuple(t.shape) for t in wrong]} on the CPU"
                )


def _place() -> str:
    """The line of this package that asked."""
    for frame in reversed(traceback.extract_stack()):
        if "/amodal/" in frame.filename:
            return f"{frame.filename.partition('/amodal/')[2]}:{frame.lineno} {frame.name}"
    return "elsewhere"


def to_device(module: torch.nn.Module) -> torch.nn.Module:
    """The module's parameters and buffers on the device, in place."""
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(
                    OnDevice(p.detach().clone()), requires_grad=p.requires_grad
                )
        for name, b in list(part._buffers.items()):
            if b is not None:
                part._buffers[name] = OnDevice(b.clone())
    return module
