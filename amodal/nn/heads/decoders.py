"""A perceptron for each task, as the decoders of MultiModN (arXiv:2309.14118)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TaskDecoders(nn.Module):
    """(N, width_in) -> (N, sum of widths), a perceptron with ReLU for each task.

    Args:
        width_in: Of the input.
        widths: Outputs of each task.
        hidden: Of the hidden layers.
        layers: Hidden layers; 0 for linear maps.
    """

    def __init__(self, width_in: int, widths: Sequence[int], *, hidden: int, layers: int):
        super().__init__()
        self.of_tasks = nn.ModuleList(
            perceptron([width_in, *[hidden] * layers, width]) for width in widths
        )

    def forward(self, x_ND: Tensor) -> Tensor:
        """See above."""
        return torch.cat([decoder(x_ND) for decoder in self.of_tasks], 1)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
