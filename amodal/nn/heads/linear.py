"""The plain heads of an encoder: a linear map, a perceptron, and the identity."""

from __future__ import annotations

from torch import nn

from amodal.core.part import Part


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


class IdentityHead(Part, nn.Identity):
    """Vectors as they are."""

    def __init__(self) -> None:
        super().__init__()
