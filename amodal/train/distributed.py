"""Every collective of the library. One process and many run the same code: W processes compute what
one would.

A method's features are gathered, with their gradient, before its losses: every process then holds
the losses of the whole batch. So no loss knows of processes, negatives are global, and BatchNorm in
a projector sees all rows. What of a loss is of the order of N^2 is shared, each process computing a
part, where the loss allows it: see `amodal.objectives.row_share`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amodal.core import Column, Ragged
from amodal.core.features import Features
from amodal.objectives.row_share import RowShare, row_share


def start() -> tuple[int, int]:
    """(rank, world). Joins the process group that torchrun announces; (0, 1) where there is none."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        # tensors on GPUs go by NCCL; numbers that decide what happens next go from CPU to CPU, so
        # that no GPU is waited for
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # left to the interpreter's end, the group's own threads can outlive what they use and abort
        # a run that has ended well
        atexit.register(stop)
    return dist.get_rank(), dist.get_world_size()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mine(parts: Sequence) -> Sequence:
    """Of pieces of work that any rank can do alone, those that this one does: every W-th."""
    return parts[rank() :: world()]


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether any rank says yes; all ranks get the same answer."""
    if world() == 1:
        return flag
    said = torch.tensor([float(flag)], device=small_numbers_device("cuda"))
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return bool(said.item())


def from_first(decide: Callable[[], str]) -> str:
    """What rank 0 decides, on every rank; the others do not call `decide`."""
    if world() == 1:
        return decide()
    found = [decide() if rank() == 0 else ""]
    dist.broadcast_object_list(found, 0, device=torch.device(small_numbers_device("cuda")))
    return found[0]


def small_numbers_device(otherwise: torch.device | str) -> torch.device | str:
    """Where small numbers are exchanged: on the CPU, unless somebody else has made a group that
    cannot do that."""
    return "cpu" if "cpu:" in dist.get_backend_config() else otherwise


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """(n_r, ...) on each rank -> (sum n_r, ...) on every rank. All ranks compute the same loss from
    it, so the gradient of a rank's rows is already whole; it is multiplied by W because gradients
    of parameters are averaged over ranks afterwards."""

    @staticmethod
    def forward(ctx, mine: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.stop = sum(counts[: rank()]), sum(counts[: rank() + 1])
        return _gather_rows(mine, counts)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[ctx.start : ctx.stop] * world(), None


def _gather_rows(mine: Tensor, counts: list[int]) -> Tensor:
    padded = mine.new_zeros(max(counts), *mine.shape[1:])
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


def _counts(n: int, device: torch.device) -> list[int]:
    where = small_numbers_device(device)
    parts = [torch.zeros(1, dtype=torch.int64, device=where) for _ in range(world())]
    dist.all_gather(parts, torch.tensor([n], device=where))
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
        flat = _Gather.apply(column.values.flat, _counts(len(column.values.flat), device))
        return Column(Ragged(flat, _gather_rows(column.values.lengths, counts)), rows)
    return Column(_Gather.apply(column.values, counts), rows)


@contextmanager
def shared_losses() -> Iterator[None]:
    """Within it, losses over the gathered rows of all ranks share the matrices that are of the
    order of N^2 (`row_share`)."""
    if world() == 1:
        yield
        return
    with row_share(RowShare(rank(), world(), _reduce, partial(_reduce, op=dist.ReduceOp.MAX))):
        yield


def _reduce(t: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    whole = t.contiguous()
    dist.all_reduce(whole, op=op)
    if whole is not t:
        t.copy_(whole)


def mean(vector: Tensor) -> Tensor:
    """Its mean over the ranks, the same on each."""
    if world() == 1:
        return vector
    total = vector.detach().clone()
    dist.all_reduce(total)
    return total / world()


BUCKET = 25 * 2**20  # numbers in one all-reduce


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over ranks of every gradient. A parameter that rows of some rank touched counts as
    zero on the others, so ranks never wait for each other over it; one that no rank touched is left
    without, as it would be on one process. Sharded parameters (FSDP2) have been averaged on the
    way."""
    if world() == 1:
        return
    whole_ones = [p for p in parameters if p.requires_grad and not hasattr(p, "device_mesh")]
    has = [p.grad is not None for p in whole_ones]
    touched = torch.tensor(
        has, dtype=torch.uint8, device=small_numbers_device(whole_ones[0].device)
    )
    dist.all_reduce(touched, op=dist.ReduceOp.MAX)
    bucket: list[nn.Parameter] = []
    filled = 0
    for p, by_any in zip(whole_ones, touched.tolist()):
        if not by_any:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        bucket.append(p)
        filled += p.numel()
        if filled >= BUCKET:
            _average(bucket)
            bucket, filled = [], 0
    if bucket:
        _average(bucket)


def _average(bucket: list[nn.Parameter]) -> None:
    grads = [p.grad for p in bucket if p.grad is not None]  # all of them, see above
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, (flat / world()).split([g.numel() for g in grads])):
        grad.copy_(part.view_as(grad))


def same_everywhere(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, but for sharded ones, of which each has
    its own part."""
    if world() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            if not hasattr(tensor, "device_mesh"):
                dist.broadcast(tensor.data, 0)


def shard(module: nn.Module) -> None:
    """Shard the blocks over the ranks (FSDP2), those of every kind and of pretrained backbones; the
    rest is small and stays whole on each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from amodal.nn.blocks import blocks_of

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world(),))
    for block in blocks_of(module):
        # resharded at once: a teacher that only ever runs forward would else be left whole beside a
        # sharded student
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together again, on every rank; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
