"""What one training step costs, counted and not computed: the real method takes a real step on
weights that have shapes and no numbers.

Weights are FakeTensors of torch, and so is whatever is made from them; the records, and all that
follows from them alone (which rows have what, which tokens are masked), are real. So every
operation of the step is seen with the shapes it has in a run, at any size of encoder, and nothing
is multiplied.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
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

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged
from amodal.methods.contract import Method
from amodal.nn.attention import cpu as _cpu_attention
from amodal.nn.gradient_checkpointing import recomputation
from amodal.train.step import gradients, total

aten = torch.ops.aten
LARGE = 4096  # numbers; smaller tensors are made for real, since some say which shapes others have


@dataclass(frozen=True)
class Count:
    """ops: (n, 3) of every operation that touches memory: FLOPs in half precision, FLOPs in float32
    and above, bytes read and written. peak: bytes alive at once beyond the weights and what was
    alive before; beside: the same without the gradients of the weights."""

    ops: np.ndarray
    peak: float
    beside: float

    @property
    def flops(self) -> float:
        return float(self.ops[:, :2].sum())

    def seconds(self, half: float, single: float, bandwidth: float, launch: float) -> float:
        """An operation takes as long as its products, its traffic or its start, whichever is
        longest; they run one after another. half, single: FLOP/s; bandwidth: bytes/s; launch:
        seconds."""
        work = self.ops[:, 0] / half + self.ops[:, 1] / single
        return float(np.maximum(np.maximum(work, self.ops[:, 2] / bandwidth), launch).sum())


class Light(TorchDispatchMode):
    """Large tensors of floats that are made in here have no numbers."""

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake = fake

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
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
    """The method that `build` makes, with parameters that have no numbers."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with Light(fake), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Accessing the data pointer of FakeTensor"
        )  # torch's own deepcopy does
        method = build()
    made: dict[int, nn.Parameter] = {}  # one for parameters that are shared
    for module in method.modules():
        for name, p in module._parameters.items():
            if p is not None and not isinstance(p, FakeTensor):
                made.setdefault(
                    id(p), nn.Parameter(fake.from_tensor(p.detach()), requires_grad=p.requires_grad)
                )
                module._parameters[name] = made[id(p)]
    return method


class Watching(TorchDispatchMode):
    """Counts what runs in here, and the bytes that are alive."""

    def __init__(self, before: list[Tensor]):
        super().__init__()
        self.ops: list[tuple[float, float, float]] = []
        self.events: list[tuple[int, int]] = []  # number of a storage, bytes that came or went
        self.known = {_key(t): (-1, 0) for t in before}
        self.serial = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        if any(isinstance(t, FakeTensor) for t in given):
            if (
                func is aten._local_scalar_dense.default
            ):  # a number that is asked for; no shape follows from it
                kind = args[0].dtype
                return False if kind == torch.bool else 1.0 if kind.is_floating_point else 1
            args = _by_number(func, args)
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if made or func._schema.is_mutable:
            self._note(func, args, kwargs, given, made, out)
        return out

    def _note(self, func, args, kwargs, given: list[Tensor], made: list[Tensor], out) -> None:
        held = set(map(_key, given))
        new = [t for t in made if _key(t) not in held]
        if new or func._schema.is_mutable:  # a view costs nothing
            wide = any(t.dtype in (torch.float32, torch.float64) for t in given)
            flops = (
                float(FLOPS[func._overloadpacket](*args, **kwargs, out_val=out))
                if func._overloadpacket in FLOPS
                else 0.0
            )
            self.ops.append(
                (
                    0.0 if wide else flops,
                    flops if wide else 0.0,
                    float(sum(map(_bytes, given + new))),
                )
            )
        for tensor in new:
            key, storage = _key(tensor), tensor.untyped_storage()
            if key not in self.known:
                self.known[key] = self.serial, storage.nbytes()
                self.events.append(self.known[key])
                self.serial += 1
                weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        number, size = self.known.pop(key)
        self.events.append((number, -size))

    def counted(self, method: Method) -> Count:
        grads = {
            self.known[_key(p.grad)][0]
            for p in method.parameters()
            if p.grad is not None and _key(p.grad) in self.known
        }
        alive = np.cumsum([size for _, size in self.events] or [0])
        beside = np.cumsum([0 if number in grads else size for number, size in self.events] or [0])
        ops = np.array(self.ops, dtype=np.float64).reshape(-1, 3)
        return Count(ops, float(max(alive.max(), 0)), float(max(beside.max(), 0)))


def count(
    method: Method,
    batch: Batch,
    *,
    times: int,
    micro: int | None,
    precision: AbstractContextManager,
    recompute: bool = False,
) -> Count:
    """One step of a `weightless` method. batch: the rows of one process, of `times` that have as
    many; micro, recompute: as in `amodal pretrain`. Raises AmodalError for a method whose shapes
    depend on what it has learnt."""
    method.zero_grad(set_to_none=True)
    watching = Watching(
        [*method.parameters(), *method.buffers(), *(c.flat for c in batch.columns.values())]
    )
    with countable(), watching, recomputation(recompute):
        gradients(
            method,
            batch,
            micro=micro,
            precision=precision,
            gather=lambda features: repeated(features, times),
        )
    counted = watching.counted(method)
    method.zero_grad(set_to_none=True)
    return counted


@contextmanager
def countable() -> Iterator[None]:
    """Attention as accelerators have it, and an error for a person where shapes depend on numbers
    that are not there."""
    before, _cpu_attention.MAX_KEYS = _cpu_attention.MAX_KEYS, 0  # a way round CPUs alone
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as problem:
        raise AmodalError(
            "this method chooses what it computes by what it has learnt, so its cost cannot be counted beforehand "
            f"({problem.func}). Plan the method that is nearest to it, such as clip, mae or dino"
        ) from None
    finally:
        _cpu_attention.MAX_KEYS = before


def count_losses(method: Method, batch: Batch, *, times: int) -> Count:
    """The losses of the whole batch alone, forward and backward, of which every process computes
    all."""
    with countable(), torch.no_grad():
        features = method.features(batch)
    leaves = {n: Column(_leaf(c.values), c.rows) for n, c in features.columns.items()}
    whole = repeated(Embeddings(leaves, features.size), times)
    watching = Watching(
        [*method.parameters(), *method.buffers(), *(c.flat for c in whole.columns.values())]
    )
    with countable(), watching:
        terms = method.losses(whole)
        total(terms).backward()
    counted = watching.counted(method)
    method.zero_grad(set_to_none=True)
    return counted


def repeated(features: Embeddings, times: int) -> Embeddings:
    """What `distributed.gather` gives, if every process had these rows."""
    if times == 1:
        return features
    columns = {}
    for name, c in features.columns.items():
        start = torch.arange(times)[:, None] * features.size
        rows = (c.rows + start).flatten()
        if isinstance(c.values, Ragged):
            values = Ragged(_Repeat.apply(c.values.flat, times), c.values.lengths.repeat(times))
        else:
            values = _Repeat.apply(c.values, times)
        columns[name] = Column(values, rows)
    return Embeddings(columns, features.size * times)


class _Repeat(torch.autograd.Function):
    """As `distributed._Gather`: the gradient of a process's own rows is all there is to it."""

    @staticmethod
    def forward(ctx, mine: Tensor, times: int) -> Tensor:
        ctx.own, ctx.times = len(mine), times
        return mine.repeat(times, *[1] * (mine.dim() - 1))

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[: ctx.own] * ctx.times, None


def _leaf(values):
    if isinstance(values, Ragged):
        return Ragged(_leaf(values.flat), values.lengths)
    values = values.float() if values.is_floating_point() else values
    return values.detach().requires_grad_(values.is_floating_point())


def _tensors(args, kwargs) -> list[Tensor]:
    return [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]


def _by_number(func, args):
    """Real masks as the numbers of what they choose: how many that is shall be known."""
    if func not in INDEXING:
        return args
    index = []
    for i in args[1]:
        masks = isinstance(i, Tensor) and i.dtype == torch.bool and not isinstance(i, FakeTensor)
        index += list(i.nonzero(as_tuple=True)) if masks else [i]
    return args[0], index, *args[2:]


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention(query, key, value, *args, out_val=None, **kwargs) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad, query, key, value, *args, out_val=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


INDEXING = (
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
)
FLOPS = {
    **flop_registry,
    # which torch's own counter leaves out
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.addmm_: flop_registry[aten.addmm],
}
