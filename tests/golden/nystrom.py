"""A layer of Nystrom attention and a block between the heads of one vector, written out."""

import math

import torch


def layer(w, name, x, *, heads, landmarks, iterations=6):
    """x + attention(norm(x)) of one list (L, D), head by head."""
    length, width = x.shape
    run = math.ceil(length / landmarks)
    y = norm(w, f"{name}.norm", x)
    y = torch.cat([y.new_zeros(run * landmarks - length, width), y])
    size, made = width // heads, []
    matrix = w[f"{name}.attention.qkv.weight"]
    kernel = w.get(f"{name}.attention.shortcut.weight")
    for h in range(heads):
        q, k, v = (
            y @ matrix[part * width + h * size : part * width + (h + 1) * size].T
            for part in range(3)
        )
        q = q / math.sqrt(size)
        q_mark, k_mark = (
            torch.stack([t[i * run : (i + 1) * run].sum(0) / run for i in range(landmarks)])
            for t in (q, k)
        )
        middle = (q_mark @ k_mark.T).softmax(1)
        inverse = middle.T / (middle.abs().sum(0).max() * middle.abs().sum(1).max())
        one = torch.eye(landmarks).to(middle)
        for _ in range(iterations):
            a = middle @ inverse
            inverse = 0.25 * inverse @ (13 * one - a @ (15 * one - a @ (7 * one - a)))
        out = (q @ k_mark.T).softmax(1) @ inverse @ ((q_mark @ k.T).softmax(1) @ v)
        if kernel is not None:
            taps = kernel[h, 0, :, 0]
            half = len(taps) // 2
            for i in range(len(v)):
                for t, weight in enumerate(taps):
                    if 0 <= i + t - half < len(v):
                        out[i] = out[i] + weight * v[i + t - half]
        made.append(out)
    y = torch.cat(made, 1)[-length:]
    return x + y @ w[f"{name}.attention.out.weight"].T + w[f"{name}.attention.out.bias"]


def norm(w, name, x, eps=1e-5):
    var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def vector_block(w, name, x, *, heads):
    """A block over one vector (D,), whose heads attend to each other."""
    y, size = norm(w, f"{name}.norm1", x, 1e-6), len(x) // heads
    qkv = w[f"{name}.qkv.weight"] @ y + w[f"{name}.qkv.bias"]
    q, k, v = (qkv[i * len(x) : (i + 1) * len(x)].view(heads, size) for i in range(3))
    mixed = (q @ k.T / math.sqrt(size)).softmax(1) @ v
    # dimension after dimension, and within each head after head
    laid = torch.stack([mixed[h, d] for d in range(size) for h in range(heads)])
    x = x + w[f"{name}.out.weight"] @ laid + w[f"{name}.out.bias"]
    y = norm(w, f"{name}.norm2", x, 1e-6)
    y = w[f"{name}.mlp.0.weight"] @ y + w[f"{name}.mlp.0.bias"]
    y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
    return x + w[f"{name}.mlp.2.weight"] @ y + w[f"{name}.mlp.2.bias"]
