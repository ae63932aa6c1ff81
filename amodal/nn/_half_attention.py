"""Attention in bf16 on a CPU: torch's forward pass, and a backward pass of matrix products.

torch's own backward pass there makes many small products of each row and takes two to seven times as long as this up to some hundred
tokens (torch 2.13, AVX-512, `python -m benchmarks steps`); its forward pass is kept, to the bit. Scores are multiplied again in
float32, because rounded ones would cost the gradient accuracy where attention is sharp.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST = 768
"""Keys above which torch's backward pass is as fast."""
AT_ONCE = 2**19
"""Scores at a time, so that they stay in the cache and memory does not grow with the square of the tokens."""


def suits(q: Tensor, k: Tensor) -> bool:
    half = q.dtype is torch.bfloat16 and q.device.type == "cpu"
    return half and torch.is_grad_enabled() and q.requires_grad and 0 < k.shape[-2] <= LONGEST


class HalfAttention(torch.autograd.Function):
    """q (n, H, queries, d), k and v (n, H, keys, d), bf16 on a CPU -> (n, H, queries, d)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        each = ctx.saved_tensors[0].shape[1] * ctx.saved_tensors[0].shape[2] * ctx.saved_tensors[1].shape[2]
        rows = max(1, AT_ONCE // each)
        with torch.autocast("cpu", enabled=False):
            parts = [_backward(*some) for some in zip(*(t.split(rows) for t in (*ctx.saved_tensors, grad)))]
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts)))


def _backward(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a few rows by q, k and v."""
    scale = q.shape[-1] ** -0.5
    weight = ((q.float() * scale) @ k.float().mT).softmax(-1).to(q.dtype)
    by_score = torch._softmax_backward_data(grad @ v.mT, weight, -1, q.dtype)
    return (by_score @ k) * scale, (by_score.mT @ q) * scale, weight.mT @ grad
