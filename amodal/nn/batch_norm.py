"""Batch normalisation of encoders: over all present rows of a batch, on all ranks.

Ioffe and Szegedy 2015, arXiv:1502.03167. The loop says with `batch_statistics` whether the batch
lies on more than one rank, and whether running statistics are updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from amodal.core import AmodalError
from amodal.core.within import within

AllReduce = Callable[[Tensor], object]
"""Replaces a tensor by its sum over the ranks, in place."""


@dataclass(frozen=True)
class _Context:
    all_reduce: AllReduce | None = None
    updates: bool = True
    absent: bool = False


_ONE_PROCESS = _Context()
_context: ContextVar[_Context] = ContextVar("batch_statistics", default=_ONE_PROCESS)


@contextmanager
def batch_statistics(
    all_reduce: AllReduce | None = None, *, updates: bool = True
) -> Iterator[None]:
    """How the statistics of a batch are taken within it.

    Args:
        all_reduce: Sums over the ranks among which the batch is divided; None for one process.
        updates: Running statistics follow. False where the same batch is computed a second time.
    """
    with within(_context, _Context(all_reduce, updates)):
        yield


@contextmanager
def no_rows() -> Iterator[None]:
    """Within it, values stand for a batch without rows, and do not count in its statistics.

    A rank whose rows lack a field runs its backbone on an example: its parameters have to be part
    of the graph, and the other ranks wait for its share of each sum.
    """
    now = _context.get()
    with within(_context, _Context(now.all_reduce, now.updates, absent=True)):
        yield


class WholeBatchNorm(_BatchNorm):
    """BatchNorm of (N, C, ...) over all present rows of all ranks, where its parameters learn.

    Else it uses its running statistics: in evaluation mode, with a frozen weight, and for a batch
    with fewer than two values a channel, of which there is no variance. In the moving average of a
    network (`follows`) it has statistics of its own, as in BYOL and DINO.

    Args:
        num_features: C.
        eps, momentum, affine: See `torch.nn.BatchNorm2d`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine)
        self.follows = False
        self.drop: nn.Module | None = None
        self.act: nn.Module | None = None

    def follow(self) -> None:
        """Take statistics of its own from now on, as the layer of a moving average."""
        self.follows = True

    def take_statistics(self, mode: bool) -> None:
        """Set the mode of this layer alone, and not that of its activation."""
        self.training = mode

    @classmethod
    def like(cls, norm: _BatchNorm) -> WholeBatchNorm:
        """The same layer, with the parameters, buffers and activation (timm) of another.

        Raises:
            AmodalError: For a layer that has no running statistics.
        """
        if norm.running_mean is None:
            raise AmodalError(
                f"a {type(norm).__name__} of this backbone keeps no running statistics "
                "(track_running_stats=False), so a single record could not be embedded. Make it "
                "with track_running_stats=True, or freeze the backbone"
            )
        made = cls(norm.num_features, norm.eps, norm.momentum, affine=norm.affine)
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            made.register_buffer(name, buffer)
        made.drop, made.act = getattr(norm, "drop", None), getattr(norm, "act", None)
        return made.train(norm.training)

    @property
    def is_active(self) -> bool:
        """Whether it takes the statistics of the batch."""
        # affine or not: a layer without a weight is in training mode in a network that learns
        learns = self.follows or not self.affine or self.weight.requires_grad
        return bool(self.training and learns)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        x = self._normalised(x)
        if self.drop is not None:
            x = self.drop(x)
        return x if self.act is None else cast(Tensor, self.act(x))

    def _check_input_dim(self, input: Tensor) -> None:  # of any number of dimensions
        return

    def _normalised(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        assert mean is not None and var is not None
        if not self.is_active:  # first, as the tracer of graphs cannot read context variables
            return batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        context = _context.get()
        count = 0 if context.absent else x.numel() // self.num_features
        if count < 2 and context.all_reduce is None:
            return batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if context.all_reduce is None:
            if not context.updates:
                return batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            factor = self.momentum or 1 / float(self.num_batches_tracked)
            return batch_norm(x, mean, var, self.weight, self.bias, True, factor, self.eps)
        weight = self.weight if self.affine else x.new_ones(self.num_features)
        bias = self.bias if self.affine else x.new_zeros(self.num_features)
        y, moments_2C, total = _OverRanks.apply(  # type: ignore[no-untyped-call]  # of torch
            x, weight, bias, mean, var, self.eps, count, context.all_reduce
        )
        if context.updates:
            self._follow_batch(moments_2C, total)
        return cast(Tensor, y)

    @torch.no_grad()
    def _follow_batch(self, moments_2C: Tensor, total: Tensor) -> None:
        """Update running statistics. total: values a channel, on the device, never waited for."""
        counts = total >= 2
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(counts.to(torch.int64))
        weight = self.momentum or 1 / self.num_batches_tracked.clamp(min=1).double()
        factor = counts.double() * weight
        unbiased = moments_2C[1] * total / (total - 1).clamp(min=1)
        for buffer, value in ((self.running_mean, moments_2C[0]), (self.running_var, unbiased)):
            assert buffer is not None
            buffer.lerp_(value.to(buffer.dtype), factor.to(buffer.dtype))


class _OverRanks(torch.autograd.Function):
    """Normalises by the moments of the values of all ranks. With fewer than two, by running ones.

    The gradient of a rank's values has the part that goes through the others' statistics: the sums
    in it are over all ranks, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        count: int,
        all_reduce: AllReduce,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        z, present = x.to(dtype), float(count > 0)
        axes = [d for d in range(x.dim()) if d != 1]
        sums = torch.cat([z.sum(axes) * present, z.new_tensor([count])])
        all_reduce(sums)
        total = sums[-1]
        mean = sums[:-1] / total.clamp(min=1)
        # around the mean, in a second sum: the mean of squares less the squared mean cancels
        squares = (z - _wide(mean, x)).square().sum(axes) * present
        all_reduce(squares)
        var = squares / total.clamp(min=1)
        moments = torch.stack([mean, var])
        enough = (total >= 2).to(dtype)
        mean = torch.where(total < 2, running_mean.to(dtype), mean)
        scale = torch.rsqrt(torch.where(total < 2, running_var.to(dtype), var) + eps)
        ctx.save_for_backward(x, weight, mean, scale, enough * present / total.clamp(min=1))
        ctx.all_reduce, ctx.present = all_reduce, present
        y = (z - _wide(mean, x)) * _wide(scale * weight, x) + _wide(bias.to(dtype), x)
        ctx.mark_non_differentiable(moments, total)
        return y.to(x.dtype), moments, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, share = ctx.saved_tensors
        dtype, axes = mean.dtype, [d for d in range(x.dim()) if d != 1]
        grad_y, normal = grad.to(dtype), (x.to(dtype) - _wide(mean, x)) * _wide(scale, x)
        own = torch.stack([grad_y.sum(axes), (grad_y * normal).sum(axes)])
        whole = own * ctx.present
        ctx.all_reduce(whole)
        through = _wide(whole[0] * share, x) + normal * _wide(whole[1] * share, x)
        grad_x = (grad_y - through) * _wide(scale * weight, x)
        grad_bias, grad_weight = own.to(weight.dtype)
        return grad_x.to(x.dtype), grad_weight, grad_bias, *(None,) * 5


def _wide(channels_C: Tensor, x: Tensor) -> Tensor:
    return channels_C.view(1, -1, *(1,) * (x.dim() - 2))


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_whole_batch_norm(module: ModuleT) -> ModuleT:
    """The network with a `WholeBatchNorm` in the place of each BatchNorm, under the same names.

    Args:
        module: Of torch, timm or anybody. It is changed.

    Raises:
        AmodalError: For a batch normalisation of its own kind.
    """
    made: dict[int, nn.Module] = {}

    def replaced(part: nn.Module) -> nn.Module:
        if id(part) not in made:
            made[id(part)] = part
            if isinstance(part, _BatchNorm) and not isinstance(part, WholeBatchNorm):
                _check_kind(part)
                made[id(part)] = WholeBatchNorm.like(part)
            else:
                for name, child in part.named_children():
                    part._modules[name] = replaced(child)
        return made[id(part)]

    return cast(ModuleT, replaced(module))


def _check_kind(norm: _BatchNorm) -> None:
    plain = type(norm).__module__.startswith("torch.nn.")
    of_timm = type(norm).__module__.startswith("timm.layers.")
    if not (plain or of_timm):
        raise AmodalError(
            f"{type(norm).__name__} is a batch normalisation of its own kind, whose statistics "
            "cannot be taken over all ranks. Use torch.nn.BatchNorm2d or a group norm, or freeze "
            "the backbone (train_backbones=False)"
        )


def active_norms(module: nn.Module) -> list[WholeBatchNorm]:
    """The layers of a network that take the statistics of the batch now."""
    return [m for m in module.modules() if isinstance(m, WholeBatchNorm) and m.is_active]


def set_follows(module: nn.Module) -> None:
    """Let a moving average of a network take the statistics of what it sees itself."""
    for part in module.modules():
        if isinstance(part, WholeBatchNorm):
            part.follow()


@torch.no_grad()
def average_statistics(average: nn.Module, network: nn.Module, momentum: float) -> set[int]:
    """Move the running statistics of an average, as its parameters move.

    An average that `follows` has its own, and keeps them unless momentum is 0, a copy.

    Args:
        average: With the layers of `network`, in the same order.
        network: What is trained.
        momentum: From 0 (a copy) to 1 (no change).

    Returns:
        id() of the buffers of these layers.
    """
    done: set[int] = set()
    for a, b in zip(average.modules(), network.modules()):
        if not isinstance(a, WholeBatchNorm):
            continue
        for x, y in zip(a.buffers(recurse=False), b.buffers(recurse=False)):
            done.add(id(x))
            if a.follows and momentum:
                continue
            if x.is_floating_point():
                x.lerp_(y, 1 - momentum)
            else:
                x.copy_(y)
    return done
