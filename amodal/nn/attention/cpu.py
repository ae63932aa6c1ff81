"""Attention on a CPU as a few large matrix products (torch 2.13, AVX-512, `python -m benchmarks
steps`).

torch's own makes many small products of each row. In bf16 its forward pass takes 1.5 to 2 times as
long as this and its backward pass two to seven times, up to some hundred tokens; in float32 the
same is true where large products are fast (`amodal.core.matmul`). Scores are multiplied in float32
and again in the backward pass, because rounded ones would cost accuracy where attention is sharp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core.matmul import are_fast

LONGEST, LONGEST_FLOAT32 = 768, 512
"""Keys above which torch's is as fast."""
AT_ONCE = 2**17
"""Scores at a time, so that they stay in the cache and memory does not grow with the square of the
tokens."""


def suits(q: Tensor, k: Tensor) -> bool:
    keys = k.shape[-2]
    half = q.dtype is torch.bfloat16 and q.device.type == "cpu" and 0 < keys <= LONGEST
    return half or (are_fast(q) and 0 < keys <= min(LONGEST, LONGEST_FLOAT32))


class CpuAttention(torch.autograd.Function):
    """q (n, H, queries, d), k and v (n, H, keys, d), bf16 or float32 on a CPU -> (n, H, queries,
    d)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        with torch.autocast("cpu", enabled=False):
            parts = [_weights(q, k) @ v for q, k, v in _pieces(q, k, v)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", enabled=False):
            parts = [_backward(*some) for some in _pieces(*ctx.saved_tensors, grad)]
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts)))


def _pieces(q: Tensor, k: Tensor, *more: Tensor) -> zip:
    """As many rows at a time as have `AT_ONCE` scores."""
    rows = max(1, AT_ONCE // (q.shape[1] * q.shape[2] * k.shape[2]))
    return zip(*(t.split(rows) for t in (q, k, *more)))


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return ((q.float() * q.shape[-1] ** -0.5) @ k.float().mT).softmax(-1).to(q.dtype)


def _backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a few rows by q, k and v."""
    weight = _weights(q, k)
    by_score = torch._softmax_backward_data(grad @ v.mT, weight, -1, q.dtype)
    scale = q.shape[-1] ** -0.5
    return (by_score @ k) * scale, (by_score.mT @ q) * scale, weight.mT @ grad
