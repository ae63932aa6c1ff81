"""Every collective of the library. W processes compute exactly what one process would.

A method's features are gathered, with their gradient, before its losses, so every process holds the
losses of the whole batch. No loss knows of processes, negatives are global, and BatchNorm in a
projector sees all rows; in a backbone it sums over ranks (`amodal.nn.batch_norm`). Matrices of the
order of N^2 in a loss are divided among the processes where the loss allows it: see
`amodal.objectives.row_share`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amodal.core import Column, Ragged
from amodal.core.features import Features
from amodal.objectives.row_share import RowShare, row_share

T = TypeVar("T")


def start() -> tuple[int, int]:
    """Join the process group that torchrun announces, if there is one.

    Returns:
        (rank, world size); (0, 1) without torchrun.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        # tensors on GPUs go by NCCL; control messages go from CPU to CPU, so that nothing waits for
        # a GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # at interpreter exit the group's threads could outlive what they use, and abort a run that
        # has succeeded
        atexit.register(stop)
    return dist.get_rank(), dist.get_world_size()


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_share(parts: Sequence[T]) -> Sequence[T]:
    """This rank's share of independent pieces of work: every W-th."""
    return parts[rank() :: world()]


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; the same on all ranks."""
    if world() == 1:
        return flag
    flags = torch.tensor([float(flag)], device=control_device("cuda"))
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def from_first(decide: Callable[[], str]) -> str:
    """The result of `decide` on rank 0, on every rank. Only rank 0 calls it."""
    if world() == 1:
        return decide()
    decided = [decide() if rank() == 0 else ""]
    dist.broadcast_object_list(decided, 0, device=torch.device(control_device("cuda")))
    return decided[0]


def control_device(fallback: torch.device | str) -> torch.device | str:
    """The device of control messages: the CPU, if the process group has a backend for it."""
    return "cpu" if "cpu:" in dist.get_backend_config() else fallback


def stop() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """(n_r, ...) on each rank -> (sum n_r, ...) on every rank.

    All ranks compute the same loss from it, so the gradient of a rank's rows is already complete.
    It is multiplied by W because parameter gradients are averaged over ranks afterwards.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.stop = sum(counts[: rank()]), sum(counts[: rank() + 1])
        return _gather_rows(local, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.start : ctx.stop] * world(), None


def _gather_with_gradient(local: Tensor, counts: list[int]) -> Tensor:
    return cast(Tensor, _Gather.apply(local, counts))  # type: ignore[no-untyped-call]  # of torch


def _gather_rows(local: Tensor, counts: list[int]) -> Tensor:
    # all_gather wants one shape of all ranks; the padding is cut off again
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


def _counts(n: int, device: torch.device) -> list[int]:
    control = control_device(device)
    parts = [torch.zeros(1, dtype=torch.int64, device=control) for _ in range(world())]
    dist.all_gather(parts, torch.tensor([n], device=control))
    return [int(p) for p in parts]


def gather(features: Features) -> Features:
    """The features of all ranks as those of one batch, rank after rank."""
    if world() == 1:
        return features
    device = next(iter(features.columns.values())).rows.device
    sizes = _counts(features.size, device)
    offset = sum(sizes[: rank()])
    columns = {n: _gather_column(column, offset, device) for n, column in features.columns.items()}
    return features.with_columns(columns, sum(sizes))


def _gather_column(column: Column, offset: int, device: torch.device) -> Column:
    counts = _counts(len(column), device)
    rows = _gather_rows(column.rows + offset, counts)
    if isinstance(column.values, Ragged):
        flat = _gather_with_gradient(column.values.flat, _counts(len(column.values.flat), device))
        return Column(Ragged(flat, _gather_rows(column.values.lengths, counts)), rows)
    return Column(_gather_with_gradient(column.values, counts), rows)


@contextmanager
def shared_losses() -> Iterator[None]:
    """Within it, ranks divide the N^2 matrices of losses over gathered rows (see `row_share`)."""
    if world() == 1:
        yield
        return
    with row_share(RowShare(rank(), world(), _reduce, partial(_reduce, op=dist.ReduceOp.MAX))):
        yield


def _reduce(t: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    # NCCL takes contiguous tensors only, and callers expect the result in `t`
    dense = t.contiguous()
    dist.all_reduce(dense, op=op)
    if dense is not t:
        t.copy_(dense)


def all_reduce_sum(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all ranks, in place."""
    _reduce(tensor)


def mean(vector: Tensor) -> Tensor:
    """The mean over all ranks, the same on each."""
    if world() == 1:
        return vector
    # all_reduce writes into its argument
    total = vector.detach().clone()
    dist.all_reduce(total)
    return total / world()


def broadcast_module(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, except sharded ones."""
    if world() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            if not hasattr(tensor, "device_mesh"):
                # `data`: autograd must not record the write, and torch has no derivative of it
                dist.broadcast(tensor.data, 0)


def shard(module: nn.Module) -> None:
    """Shard the blocks over the ranks (FSDP2), including those of pretrained backbones.

    The rest is small and stays whole on each rank.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from amodal.nn.blocks import blocks_of

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world(),))
    for block in blocks_of(module):
        # reshard after the forward pass: a teacher has no backward pass that would do it
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a DTensor, on every rank; any other tensor unchanged."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor
