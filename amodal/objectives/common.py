"""Shared by all objectives: full precision, a zero that keeps the graph, and checks of shapes."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import Function

P = ParamSpec("P")
R = TypeVar("R")


def autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    """A context in which products on `tensor`'s device are not rounded to half precision."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """Values in single precision, or in double if they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return at_least_single(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_widen(item) for item in value)
    return value


def _first_tensor(values: Any) -> Tensor | None:
    for value in values:
        tensor = _first_tensor(value) if isinstance(value, (list, tuple)) else value
        if isinstance(tensor, Tensor):
            return tensor
    return None


def full_precision(objective: Callable[P, R]) -> Callable[P, R]:
    """Decorator that runs an objective in at least float32, also under autocast.

    Logits are cosines times up to 100, and variances are differences of large sums: eight bits of
    mantissa change both, and an objective is a few percent of a step. float64 stays float64.
    """

    @functools.wraps(objective)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        wide, named = _widen(args), {name: _widen(value) for name, value in kwargs.items()}
        tensor = _first_tensor((*wide, *named.values()))
        with nullcontext() if tensor is None else autocast_off(tensor):
            return objective(*wide, **named)

    return run


def apply(function: type[Function], *inputs: object) -> Any:
    """`function.apply(*inputs)`, which torch does not annotate: a tensor, or a tuple of them."""
    return function.apply(*inputs)


def connected_zero(*inputs: Tensor | float) -> Tensor:
    """0 with an edge to every input, so that parameters behind them get a zero gradient.

    A rank or micro-batch without any pair must take part in the backward pass like the others.

    Args:
        inputs: tensors, at least one; numbers among them are ignored.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    return sum((value.sum() * 0 for value in tensors[1:]), tensors[0].sum() * 0)


def check_pair(name: str, a_ND: Tensor, b_ND: Tensor) -> None:
    """Check that two matrices have one shape, row i of one belonging to row i of the other.

    Args:
        name: the objective, for the message.

    Raises:
        ValueError: they do not.
    """
    if a_ND.dim() != 2 or a_ND.shape != b_ND.shape:
        raise ValueError(
            f"{name} compares row i with row i and needs two (N, D) matrices of one shape, "
            f"got {tuple(a_ND.shape)} and {tuple(b_ND.shape)}; take the rows that have both first."
        )


def check_positive(name: str, value: Tensor | float) -> None:
    """Check that a number is above zero. A tensor is not checked: that would stall an accelerator.

    Args:
        name: the argument, for the message.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Tensor) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}.")
