"""The mean of gradients over ranks, while the backward pass goes on. Li et al., VLDB 2020,
arXiv:2006.15704, section 3.2: buckets, and all-reduce as soon as one is full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from amodal.train import distributed

BUCKET = 25 * 2**20 // 4
"""Numbers in one all-reduce: 25 MiB of float32, as PyTorch's DDP has it."""


class GradientSync:
    """Averages gradients over ranks; those that a last backward pass makes are sent during it.

    Every rank sends the same buckets in the same order, whichever of its parameters its own rows
    reach: a bucket waits for all of its gradients and for the buckets before it, and `finish` sends
    what is left. So ranks never wait for a parameter that only others use.

    Make it when the losses have been differentiated. What has a gradient by then comes last, since
    the backward pass of the features may not touch it any more.

    Args:
        parameters: In the order in which the network uses them, the same on all ranks. Those that
            are sharded (FSDP2) are averaged elsewhere.
        bucket: Numbers in one all-reduce.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket: int = BUCKET):
        learning = [p for p in parameters if p.requires_grad and not hasattr(p, "device_mesh")]
        reached = _of_any_rank(learning)
        early = [p for p, seen in zip(learning, reached) if not seen]
        late = [p for p, seen in zip(learning, reached) if seen]
        self.buckets = [*_filled(early[::-1], bucket), *_filled(late[::-1], bucket)]
        self.learning = learning
        self._bucket_of = {p: i for i, b in enumerate(self.buckets) for p in b}
        self._missing = [len(b) for b in self.buckets]
        self._sent: list[tuple[Tensor, dist.Work]] = []

    @property
    def sent(self) -> int:
        """Buckets on their way."""
        return len(self._sent)

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
        reached = dict(zip(self.learning, _of_any_rank(self.learning)))
        while self.sent < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self._sent):
            work.wait()
            mean = flat / distributed.world()
            for p, part in zip(bucket, mean.split([p.numel() for p in bucket])):
                if reached[p]:
                    p.grad = part.view_as(p) if p.grad is None else p.grad.copy_(part.view_as(p))

    def _has_gradient(self, parameter: Tensor) -> None:
        number = self._bucket_of[parameter]  # type: ignore[index]  # hooks are given the parameter
        self._missing[number] -= 1
        while self.sent < len(self.buckets) and not self._missing[self.sent]:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        bucket = self.buckets[self.sent]
        zero = (p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in bucket)
        flat = torch.cat(list(zero))
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None  # of this rank's own group
        self._sent.append((flat, work))


def _of_any_rank(parameters: list[nn.Parameter]) -> list[bool]:
    """Whether any rank has a gradient of each."""
    if not parameters:
        return []
    has = torch.tensor(
        [p.grad is not None for p in parameters],
        dtype=torch.uint8,
        device=distributed.control_device(parameters[0].device),
    )
    dist.all_reduce(has, op=dist.ReduceOp.MAX)
    return [bool(h) for h in has.tolist()]


def _filled(parameters: list[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
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
