"""What every objective shares: full precision inside, a zero that keeps the graph, and readable
shape errors."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast_off(tensor: Tensor) -> AbstractContextManager:
    """A context in which products of `tensor`'s device are not rounded to half precision."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    if isinstance(value, (list, tuple)):
        return type(value)(_widen(item) for item in value)
    return value


def _first_tensor(values: Any) -> Tensor | None:
    for value in values:
        found = _first_tensor(value) if isinstance(value, (list, tuple)) else value
        if isinstance(found, Tensor):
            return found
    return None


def full_precision(objective: Callable) -> Callable:
    """Runs an objective in at least float32, also under autocast.

    Logits are cosines times up to 100 and variances are differences of large sums: eight bits of
    mantissa change both, while an objective is a few percent of a step. float64 stays float64.
    """

    @functools.wraps(objective)
    def run(*args, **kwargs):
        args, kwargs = _widen(args), {name: _widen(value) for name, value in kwargs.items()}
        tensor = _first_tensor((*args, *kwargs.values()))
        with nullcontext() if tensor is None else autocast_off(tensor):
            return objective(*args, **kwargs)

    return run


def connected_zero(*inputs: Tensor | float) -> Tensor:
    """0, with an edge to every input, so that each parameter behind them still receives a (zero)
    gradient.

    A rank or a micro-batch without any pair must take part in the backward pass like the others.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    return sum((value.sum() * 0 for value in tensors[1:]), tensors[0].sum() * 0)


def check_pair(name: str, a_ND: Tensor, b_ND: Tensor) -> None:
    """Raises ValueError unless both are matrices of one shape, row i of one belonging to row i of
    the other."""
    if a_ND.dim() != 2 or a_ND.shape != b_ND.shape:
        raise ValueError(
            f"{name} compares row i with row i and needs two (N, D) matrices of one shape, "
            f"got {tuple(a_ND.shape)} and {tuple(b_ND.shape)}; take the rows that have both first."
        )


def check_positive(name: str, value: Tensor | float) -> None:
    """Raises ValueError for a number that is not above zero (a tensor is not read: that would stall
    an accelerator)."""
    if not isinstance(value, Tensor) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}.")
