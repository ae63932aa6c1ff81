"""LoRA: a trained linear map learns a difference of low rank, W + (alpha / r) B A. Hu et al., ICLR
2022, arXiv:2106.09685, section 4.1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """Added to a weight (out, in). Zero at first: A (rank, in) is drawn, B (out, rank) is zero."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(weight.new_empty(rank, width))
        self.b = nn.Parameter(weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


def every(name: str) -> bool:
    return True


def lora(
    module: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    where: Callable[[str], bool] = every,
) -> nn.Module:
    """The module, frozen but for a low-rank difference in each of its linear maps whose name
    `where` takes. rank: r, no more than the map has; alpha: 2 r unless given. `merged` makes it a
    plain module again."""
    module.requires_grad_(False)
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and where(name):
            r = min(rank, *part.weight.shape)
            change = LowRank(part.weight, r, alpha if alpha is not None else 2.0 * r)
            parametrize.register_parametrization(part, "weight", change)
    return module


@torch.no_grad()
def merged(module: nn.Module) -> nn.Module:
    """The module with its differences added to the weights, and nothing left of them: it computes
    the same, in the time it took before."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return module
