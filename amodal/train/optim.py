"""AdamW and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from amodal.train import distributed


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Matrices decay; vectors and scalars (norms, biases, tokens, temperatures) do not. Sharded parameters have groups of their
    own, because one fused call cannot mix them with whole ones. rates: beginning of a name -> times the learning rate, which a group
    keeps as `times`."""
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            times = next((times for start, times in (rates or {}).items() if name.startswith(start)), 1.0)
            groups.setdefault((times, p.dim() > 1, sharded(p)), []).append(p)
    described = [
        {"params": params, "weight_decay": weight_decay if decays else 0.0, "lr": lr * times, "times": times}
        for (times, decays, _), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(described, lr=lr, betas=betas, fused=True)


def warm_cosine(step: int, steps: int, *, warmup: int, floor: float = 0.01) -> float:
    """The learning rate's factor at step 0, 1, …: up in a line, then down half a cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their norm together is at most `most`; returns the norm before. Whole and sharded parameters
    may be mixed, which torch's own function does not take."""
    grads = [p.grad for p in parameters if p.grad is not None]
    plain, split = [g for g in grads if not sharded(g)], [g for g in grads if sharded(g)]
    norm = torch.stack([*torch._foreach_norm(plain), *(distributed.whole(g.norm()) for g in split)]).norm()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(plain, scale)
    for g in split:
        g.mul_(scale)
    return norm


def sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")
