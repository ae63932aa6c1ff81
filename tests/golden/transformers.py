"""Blocks of transformers, written out from Vaswani et al. 2017 and Dosovitskiy et al. 2021 for one
record at a time. Nothing here comes from the package; `w` has weights by their names."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """LayerNorm (Ba et al. 2016)."""
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.down", gelu(linear(w, f"{name}.up", x)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, see: Tensor | None = None) -> Tensor:
    """see: (queries, keys) bool; None for all."""
    made = []
    for a, b, c in zip(*(x.chunk(heads, 1) for x in (q, k, v))):
        logits = a @ b.T / math.sqrt(a.shape[1])
        if see is not None:
            logits = logits.masked_fill(~see, -math.inf)
        made.append(torch.softmax(logits, 1) @ c)
    return torch.cat(made, 1)


def block(w: Weights, name: str, x: Tensor, heads: int, see: Tensor | None = None) -> Tensor:
    """Attention, then a perceptron, norms before."""
    qkv = linear(w, f"{name}.attention.qkv", norm(w, f"{name}.norm1", x))
    x = x + linear(w, f"{name}.attention.out", attend(*qkv.chunk(3, 1), heads, see))
    return x + mlp(w, name, norm(w, f"{name}.norm2", x))


def read_block(w: Weights, name: str, x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Attention among x, attention from x to y, and a perceptron, norms before."""
    z = norm(w, f"{name}.norm1", x)
    x = x + read(w, f"{name}.self_attention", z, z, heads)
    x = x + read(w, f"{name}.cross_attention", norm(w, f"{name}.norm2", x), y, heads)
    return x + mlp(w, name, norm(w, f"{name}.norm3", x))


def read(w: Weights, name: str, x: Tensor, y: Tensor, heads: int) -> Tensor:
    q, (k, v) = linear(w, f"{name}.query", x), linear(w, f"{name}.key_value", y).chunk(2, 1)
    return linear(w, f"{name}.out", attend(q, k, v, heads))


def sines(position: Tensor, width: int) -> Tensor:
    """Sines and cosines of each of three coordinates, at width // 6 wavelengths."""
    bands = width // 6
    columns = [
        position[:, axis].double() / 10000 ** (k / bands) for axis in range(3) for k in range(bands)
    ]
    angle = torch.stack(columns, 1)
    return torch.cat([angle.sin(), angle.cos(), angle.new_zeros(len(angle), width - 6 * bands)], 1)
