"""The mean of gradients over ranks, while the backward pass goes on. Li et al., VLDB 2020,
arXiv:2006.15704, section 3.2: buckets, and all-reduce as soon as one is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amodal.train import distributed

BUCKET = 25 * 2**20 // 4
"""Numbers in one all-reduce: 25 MiB of float32, as PyTorch's DDP has it."""
IN_FLIGHT = 2
"""Buckets that exist at once: while one is reduced, the next is filled."""


class GradientSync:
    """Averages gradients over ranks; those that a last backward pass makes are sent during it.

    Every rank sends the same buckets in the same order, whichever of its parameters its own rows
    reach: a bucket waits for all of its gradients and for the buckets before it, and `finish` sends
    what is left. So ranks never wait for a parameter that only others use.

    A bucket is a copy of its gradients, and is written back and let go once its mean has arrived:
    there are never more than `IN_FLIGHT`.

    Make it when the losses have been differentiated. What has a gradient by then comes last, since
    the backward pass of the features may not touch it any more.

    Args:
        parameters: In the order in which the network uses them, the same on all ranks. Those that
            are sharded (FSDP2) are averaged elsewhere.
        bucket: Numbers in one all-reduce.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket: int = BUCKET):
        learning = [p for p in parameters if p.requires_grad and not hasattr(p, "device_mesh")]
        reached = _of_any_rank([p.grad is not None for p in learning], learning)
        early = [p for p, seen in zip(learning, reached) if not seen]
        late = [p for p, seen in zip(learning, reached) if seen]
        self.buckets = [*in_buckets(early[::-1], bucket), *in_buckets(late[::-1], bucket)]
        self.learning = learning
        self.sent = 0
        """Buckets that were sent so far."""
        self._bucket_of = {p: i for i, b in enumerate(self.buckets) for p in b}
        self._missing = [len(b) for b in self.buckets]
        self._flying: deque[tuple[list[nn.Parameter], Tensor, dist.Work]] = deque()

    @contextmanager
    def during(self) -> Iterator[None]:
        """Within it is the last backward pass: a gradient that it makes is whole."""
        hooks = [p.register_post_accumulate_grad_hook(self._has_gradient) for p in self.learning]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def finish(self) -> None:
        """Send what has not been sent, wait for all, and put the means in place. A parameter that
        no rank touched is left without a gradient, as it would be on one process."""
        mine = [p.grad is not None for p in self.learning]
        while self.sent < len(self.buckets) or self._flying:
            while self.sent < len(self.buckets) and len(self._flying) < IN_FLIGHT:
                self._send()
            self._write_back()
        # after all buckets, since ranks may have sent different numbers of them before this
        for p, reached in zip(self.learning, _of_any_rank(mine, self.learning)):
            if not reached:
                p.grad = None

    @torch.no_grad()
    def _has_gradient(self, parameter: Tensor) -> None:
        self._missing[self._bucket_of[parameter]] -= 1  # type: ignore[index]  # it is a Parameter
        # never wait here: another rank may need this one to go on before it sends its bucket
        while self._flying and self._flying[0][-1].is_completed():
            self._write_back()
        while (
            self.sent < len(self.buckets)
            and not self._missing[self.sent]
            and len(self._flying) < IN_FLIGHT
        ):
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self.sent]
        zero = (p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in bucket)
        flat = torch.cat(list(zero))
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None  # of this rank's own group
        self._flying.append((bucket, flat, work))
        self.sent += 1

    def _write_back(self) -> None:
        """Put the oldest bucket's means in place."""
        bucket, flat, work = self._flying.popleft()
        work.wait()
        flat /= distributed.world()
        for p, part in zip(bucket, flat.split([p.numel() for p in bucket])):
            if p.grad is None:
                p.grad = part.view_as(p).clone()  # a view would keep the whole bucket
            else:
                p.grad.copy_(part.view_as(p))


def _of_any_rank(flags: list[bool], parameters: list[nn.Parameter]) -> list[bool]:
    """Whether the flag of each parameter is set on any rank."""
    if not parameters:
        return []
    any_rank = torch.tensor(
        flags, dtype=torch.uint8, device=distributed.control_device(parameters[0].device)
    )
    dist.all_reduce(any_rank, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in any_rank.tolist()]


def in_buckets(
    parameters: Iterable[nn.Parameter], size: int = BUCKET
) -> Iterator[list[nn.Parameter]]:
    """In order, in buckets of at least `size` numbers but for the last; one type each."""
    bucket: list[nn.Parameter] = []
    numbers = 0
    for p in parameters:
        if bucket and (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(p)
        numbers += p.numel()
        if numbers >= size:
            yield bucket
            bucket, numbers = [], 0
    if bucket:
        yield bucket


def numbers_in_flight(parameters: Iterable[nn.Parameter], bucket: int = BUCKET) -> int:
    """Numbers in the buckets that exist at once, at most.

    Args:
        parameters: In the order in which the network uses them.
        bucket: Numbers in one all-reduce.
    """
    sizes = [sum(p.numel() for p in b) for b in in_buckets([*parameters][::-1], bucket)]
    return max((sum(sizes[i : i + IN_FLIGHT]) for i in range(len(sizes))), default=0)
