"""Attention on a CPU as a few large matrix products.

torch's own makes many small products of each row. In bf16 its forward pass takes 1.5 to 2 times as
long as this and its backward pass two to seven times, up to some hundred tokens. In float32 the
same is true where large products are fast (`amodal.core.matmul`). Measured with torch 2.13 and
AVX-512, `python -m benchmarks steps`. Scores are multiplied in float32, in both passes, because
rounded ones would cost accuracy where attention is sharp.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from amodal.core.matmul import are_fast

MAX_KEYS, MAX_KEYS_FLOAT32 = 768, 512
"""Keys above which torch's is as fast."""
SCORES_PER_PIECE = 2**17
"""Scores at a time, so that they stay in the cache and memory does not grow with the square of the
tokens."""


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether this attention is the faster one.

    Args:
        q: (n, H, queries, d).
        k: (n, H, keys, d).
    """
    keys = k.shape[-2]
    half = q.dtype is torch.bfloat16 and q.device.type == "cpu" and 0 < keys <= MAX_KEYS
    return half or (are_fast(q) and 0 < keys <= min(MAX_KEYS, MAX_KEYS_FLOAT32))


@contextmanager
def never_suits() -> Iterator[None]:
    """Within it, attention is torch's own, as on accelerators."""
    global MAX_KEYS
    before, MAX_KEYS = MAX_KEYS, 0
    try:
        yield
    finally:
        MAX_KEYS = before


class CpuAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v of bf16 or float32 on a CPU.

    q is (n, H, queries, d), k and v are (n, H, keys, d); the result is like q.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `torch.autograd.Function`."""
        ctx.save_for_backward(q, k, v)
        with torch.autocast("cpu", enabled=False):
            # autocast would round the float32 scores to bf16
            parts = [_weights(q, k) @ v for q, k, v in _row_pieces(q, k, v)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """See `torch.autograd.Function`."""
        with torch.autocast("cpu", enabled=False):
            parts = [_backward(*piece) for piece in _row_pieces(*ctx.saved_tensors, grad)]
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts)))


def attention_on_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, see `CpuAttention`."""
    out: Tensor = CpuAttention.apply(q, k, v)  # type: ignore[no-untyped-call]  # of torch
    return out


def _row_pieces(q: Tensor, k: Tensor, *more: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of as many rows as have `SCORES_PER_PIECE` scores."""
    rows = max(1, SCORES_PER_PIECE // (q.shape[1] * q.shape[2] * k.shape[2]))
    return zip(*(torch.split(t, rows) for t in (q, k, *more)))


def _weights(q: Tensor, k: Tensor) -> Tensor:
    out: Tensor = ((q.float() * q.shape[-1] ** -0.5) @ k.float().mT).softmax(-1).to(q.dtype)
    return out


def _backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a few rows by q, k and v."""
    # computed a second time rather than stored, so that memory does not grow with queries times
    # keys
    weight = _weights(q, k)
    # d loss / d score = weight (g - sum over keys of weight g), with g = grad v^T, in one kernel
    by_score = torch._softmax_backward_data(grad @ v.mT, weight, -1, q.dtype)
    scale = q.shape[-1] ** -0.5
    return (by_score @ k) * scale, (by_score.mT @ q) * scale, weight.mT @ grad
