"""LoRA: a trained linear map learns a difference of low rank, W + (alpha / r) B A.

Hu et al., ICLR 2022, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """A difference that is added to a weight, zero at first: A is drawn at random, B is zero.

    Args:
        weight: (out, in), the weight.
        rank: r; A is (r, in), B is (out, r).
        alpha: Scales the difference by alpha / r.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(weight.new_empty(rank, width))
        # B A = 0 at first, though A is not, so that B has a gradient
        self.b = nn.Parameter(weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in), with the difference."""
        return weight + self.scale * (self.b @ self.a)


def every(name: str) -> bool:
    """The `where` of `lora` for all linear maps."""
    return True


def lora(
    module: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    where: Callable[[str], bool] = every,
) -> nn.Module:
    """Freeze a module, and add a low-rank difference to each of its linear maps.

    Args:
        module: It is changed; `merged` makes it a plain module again.
        rank: r, or less where a map has less.
        alpha: 2 r unless set.
        where: Name of a linear map -> whether it gets one.

    Returns:
        The module.
    """
    module.requires_grad_(False)
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and where(name):
            r = min(rank, *part.weight.shape)
            change = LowRank(part.weight, r, alpha if alpha is not None else 2.0 * r)
            parametrize.register_parametrization(part, "weight", change)
    return module


@torch.no_grad()
def merged(module: nn.Module) -> nn.Module:
    """The module with its differences added to the weights: same outputs, at the former speed."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return module
