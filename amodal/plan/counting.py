"""Count the cost of a training step without computing it.

The real method takes a real step on torch's FakeTensors, which have shapes and no numbers. Weights
are fake, and so is everything computed from them. The records are real, and so is everything that
follows from them alone, such as row numbers and masks. So every operation of the step runs with the
shapes of a real run, at any size of encoder, and nothing is multiplied.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.core.column import Values
from amodal.core.features import Features
from amodal.methods.contract import Method
from amodal.nn.attention.cpu import never_suits
from amodal.nn.gradient_checkpointing import recomputation
from amodal.train.step import gradients, total

aten = torch.ops.aten
LARGE = 4096
"""Elements from which a tensor is fake. Smaller ones are real, since some are shapes of others."""


@dataclass(frozen=True)
class Count:
    """The counted cost of a step.

    Args:
        ops: (n, 3), of every operation that touches memory: FLOPs in half precision, FLOPs in
            float32 and above, bytes read and written.
        peak: Bytes allocated at once, beyond the weights and what was allocated before.
        peak_without_gradients: The same without the gradients of the weights.
    """

    ops: npt.NDArray[np.float64]
    peak: float
    peak_without_gradients: float

    @property
    def flops(self) -> float:
        return float(self.ops[:, :2].sum())

    def seconds(self, half: float, single: float, bandwidth: float, launch: float) -> float:
        """The time of a step, by a roofline model.

        An operation takes as long as its products, its memory traffic or its launch, whichever is
        longest. Operations do not overlap.

        Args:
            half, single: FLOP/s in half precision and in float32.
            bandwidth: Bytes/s.
            launch: Seconds.
        """
        work = self.ops[:, 0] / half + self.ops[:, 1] / single
        return float(np.maximum(np.maximum(work, self.ops[:, 2] / bandwidth), launch).sum())


class FakeLargeTensors(TorchDispatchMode):
    """Within it, large float tensors are created as FakeTensors."""

    def __init__(self, fake: FakeTensorMode):
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.fake = fake

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        size = args[0] if args and isinstance(args[0], (list, tuple)) else ()
        floats = (kwargs.get("dtype") or torch.float32).is_floating_point
        if (
            all(isinstance(n, int) for n in size)
            and math.prod(size) > LARGE
            and floats
            and not _tensors(args, kwargs)
        ):
            with self.fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def weightless(build: Callable[[], Method]) -> Method:
    """The method that `build` makes, with FakeTensors as parameters."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeLargeTensors(fake), warnings.catch_warnings():
        # torch's own deepcopy does
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        method = build()
    made: dict[int, nn.Parameter] = {}  # by id, so that shared parameters stay shared
    for module in method.modules():
        for name, p in module._parameters.items():
            if p is not None and not isinstance(p, FakeTensor):
                made.setdefault(
                    id(p), nn.Parameter(fake.from_tensor(p.detach()), requires_grad=p.requires_grad)
                )
                module._parameters[name] = made[id(p)]
    return method


class OpCounter(TorchDispatchMode):
    """Counts the operations that run within it, and the allocated bytes.

    Args:
        before: Tensors whose memory is not counted.
    """

    def __init__(self, before: list[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.ops: list[tuple[float, float, float]] = []
        self.events: list[tuple[int, int]] = []  # (number of a storage, bytes allocated or freed)
        self.known = {_key(t): (-1, 0) for t in before}
        self.serial = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors(args, kwargs)
        if any(isinstance(t, FakeTensor) for t in inputs):
            # the number of a tensor is read; no shape follows from it
            if func is aten._local_scalar_dense.default:
                kind = args[0].dtype
                return False if kind == torch.bool else 1.0 if kind.is_floating_point else 1
            args = _index_by_number(func, args)
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if made or func._schema.is_mutable:
            self._record(func, args, kwargs, inputs, made, out)
        return out

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        made: list[Tensor],
        out: Any,
    ) -> None:
        storages = set(map(_key, inputs))
        new = [t for t in made if _key(t) not in storages]
        if new or func._schema.is_mutable:  # a view costs nothing
            single = any(t.dtype in (torch.float32, torch.float64) for t in inputs)
            flops = 0.0
            if func._overloadpacket in FLOPS:
                flops = float(FLOPS[func._overloadpacket](*args, **kwargs, out_val=out))
            traffic = float(sum(map(_bytes, inputs + new)))
            self.ops.append((0.0 if single else flops, flops if single else 0.0, traffic))
        for tensor in new:
            key, storage = _key(tensor), tensor.untyped_storage()
            if key not in self.known:
                self.known[key] = self.serial, storage.nbytes()
                self.events.append(self.known[key])
                self.serial += 1
                weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        number, size = self.known.pop(key)
        self.events.append((number, -size))

    def counted(self, method: Method) -> Count:
        """The cost so far, with the gradients of the method's parameters."""
        grads = {
            self.known[_key(p.grad)][0]
            for p in method.parameters()
            if p.grad is not None and _key(p.grad) in self.known
        }
        allocated = [size for _, size in self.events]
        without_gradients = [0 if number in grads else size for number, size in self.events]
        ops = np.array(self.ops, dtype=np.float64).reshape(-1, 3)
        return Count(ops, _peak(allocated), _peak(without_gradients))


def _peak(changes: list[int]) -> float:
    """The largest sum of the first n changes, at least 0."""
    return float(max(np.cumsum(changes or [0]).max(), 0))


def count(
    method: Method,
    batch: Batch,
    *,
    times: int,
    micro_batch_size: int | None,
    precision: AbstractContextManager[object],
    gradient_checkpointing: bool = False,
) -> Count:
    """Count one step of a `weightless` method.

    Args:
        batch: The rows of one process.
        times: Number of processes.
        precision: The context that features are computed in.

    Raises:
        AmodalError: For a method whose shapes depend on its weights.
    """
    method.zero_grad(set_to_none=True)
    counter = OpCounter(
        [*method.parameters(), *method.buffers(), *(c.flat for c in batch.columns.values())]
    )
    with countable(), counter, recomputation(gradient_checkpointing):
        gradients(
            method,
            batch,
            micro=micro_batch_size,
            precision=precision,
            gather=lambda features: repeated(features, times),
        )
    counted = counter.counted(method)
    method.zero_grad(set_to_none=True)
    return counted


@contextmanager
def countable() -> Iterator[None]:
    """Within it, attention is that of accelerators, and weight-dependent shapes are an error."""
    try:
        with never_suits():
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as problem:
        raise AmodalError(
            "what this method computes depends on its weights, so its cost cannot be counted "
            f"beforehand ({problem.func}). Plan a similar method, such as clip, mae or dino"
        ) from None


def count_losses(method: Method, batch: Batch, *, times: int) -> Count:
    """Count the losses alone, forward and backward. Every process computes all of them.

    Args:
        batch: The rows of one process.
        times: Number of processes.
    """
    with countable(), torch.no_grad():
        features = method.features(batch)
    leaves = {n: Column(_leaf(c.values), c.rows) for n, c in features.columns.items()}
    whole = repeated(features.with_columns(leaves, features.size), times)
    counter = OpCounter(
        [*method.parameters(), *method.buffers(), *(c.flat for c in whole.columns.values())]
    )
    with countable(), counter:
        torch.autograd.backward(total(method.losses(whole)))
    counted = counter.counted(method)
    method.zero_grad(set_to_none=True)
    return counted


def repeated(features: Features, times: int) -> Features:
    """The result of `distributed.gather` if all processes had these rows."""
    if times == 1:
        return features
    columns: dict[str, Column] = {}
    for name, c in features.columns.items():
        start = torch.arange(times)[:, None] * features.size
        rows = (c.rows + start).flatten()
        if isinstance(c.values, Ragged):
            values: Values = Ragged(_repeat(c.values.flat, times), c.values.lengths.repeat(times))
        else:
            values = _repeat(c.values, times)
        columns[name] = Column(values, rows)
    return features.with_columns(columns, features.size * times)


class _Repeat(torch.autograd.Function):
    """As `distributed._Gather`: only the gradient of a process's own rows is passed on."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, times: int) -> Tensor:
        ctx.rows, ctx.times = len(local), times
        return local.repeat(times, *[1] * (local.dim() - 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[: ctx.rows] * ctx.times, None


def _repeat(local: Tensor, times: int) -> Tensor:
    return cast(Tensor, _Repeat.apply(local, times))  # type: ignore[no-untyped-call]  # of torch


def _leaf(values: Values) -> Values:
    if isinstance(values, Ragged):
        return Ragged(_leaf_tensor(values.flat), values.lengths)
    return _leaf_tensor(values)


def _leaf_tensor(values: Tensor) -> Tensor:
    values = values.float() if values.is_floating_point() else values
    return values.detach().requires_grad_(values.is_floating_point())


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]


def _index_by_number(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace real masks by the indices they select, so that the shape of the result is known."""
    if func not in INDEXING:
        return args
    index: list[Any] = []
    for i in args[1]:
        is_mask = isinstance(i, Tensor) and i.dtype == torch.bool and not isinstance(i, FakeTensor)
        index += list(i.nonzero(as_tuple=True)) if is_mask else [i]
    return args[0], index, *args[2:]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any = None, **kwargs: Any
) -> int:
    shapes = query.shape, key.shape, value.shape
    return int(sdpa_flop_count(*shapes))


def _attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    out_val: Any = None,
    **kwargs: Any,
) -> int:
    shapes = grad.shape, query.shape, key.shape, value.shape
    return int(sdpa_backward_flop_count(*shapes))


INDEXING = (
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
)
FLOPS: dict[Any, Callable[..., Any]] = {
    **flop_registry,
    # those that torch's own counter lacks
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.addmm_: flop_registry[aten.addmm],
}
