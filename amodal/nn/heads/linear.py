"""The plain heads of an encoder: linear maps, gated or not, perceptrons, and the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from amodal.core import AmodalError
from amodal.core.part import Part

EPS = 1e-6
"""Keeps a vector of zeros from a division by zero."""


class LinearHead(Part, nn.Linear):
    """(N, width_in) -> (N, width), a linear map."""

    def __init__(self, width_in: int, width: int, bias: bool = False):
        super().__init__(width_in, width, bias=bias)


class MlpHead(Part, nn.Sequential):
    """(N, width_in) -> (N, width), a perceptron with one hidden layer and GELU.

    Args:
        width_in, width: Of input and output.
        hidden: Of the hidden layer.
        bias: Of the last layer.
    """

    def __init__(self, width_in: int, width: int, hidden: int, bias: bool = False):
        super().__init__(
            nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width, bias=bias)
        )


class ReluHead(Part, nn.Sequential):
    """(N, width_in) -> (N, width), a perceptron with ReLU.

    Args:
        width_in, width: Of input and output.
        hidden: Of the hidden layers.
        layers: Hidden layers.
    """

    def __init__(self, width_in: int, width: int, hidden: int, layers: int):
        steps: list[nn.Module] = []
        for k in range(layers):
            steps += [nn.Linear(hidden if k else width_in, hidden), nn.ReLU()]
        super().__init__(*steps, nn.Linear(hidden if layers else width_in, width))


class GatedLinear(nn.Module):
    """A linear map whose outputs are weighed by a sigmoid of a linear map of them.

    Miech et al. 2018, arXiv:1804.02516, eq. 3-4.
    """

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.linear, self.gate = nn.Linear(width_in, width), nn.Linear(width, width)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, width_in) -> (N, width)."""
        y = self.linear(x_ND)
        out: Tensor = y * self.gate(y).sigmoid()
        return out


class GatedHead(Part, GatedLinear):
    """(N, width_in) -> (N, width), a gated linear map."""

    def __init__(self, width_in: int, width: int):
        super().__init__(width_in, width)


class ResidualHead(Part):
    """(N, width) -> (N, width), a perceptron beside the identity, which it begins as.

    It scales with its input, so that directions alone matter.

    Args:
        width: Of input and output.
        hidden: Of the hidden layer.
        linear: Whether a linear map comes first.
    """

    def __init__(self, width: int, hidden: int, linear: bool = False):
        super().__init__()
        self.linear = nn.Linear(width, width) if linear else None
        self.into, self.out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        """See above."""
        x_ND = x_ND if self.linear is None else self.linear(x_ND)
        typical = x_ND.square().mean(1, keepdim=True).sqrt()
        changed: Tensor = x_ND + typical * self.out(gelu(self.into(x_ND / (typical + EPS))))
        return changed


class IdentityHead(Part, nn.Identity):
    """Vectors as they are."""

    def __init__(self) -> None:
        super().__init__()


@torch.no_grad()
def keep_space(head: LinearHead, field: str, space: int) -> None:
    """Let a head begin as the identity.

    Args:
        head: (N, D) -> (N, width).
        field: For messages.
        space: Dimensions that the D have; the others are zero.

    Raises:
        AmodalError: For a smaller width.
    """
    if head.out_features < space:
        raise AmodalError(
            f"the backbone of {field!r} brings a space of {space} dimensions along, and vectors of "
            f"{head.out_features} would cut it: set --method.width {space}"
        )
    nn.init.eye_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
