"""The learned scale of cosine logits, 1 / temperature."""

import math

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """A positive scalar, learned as its logarithm.

    Args:
        start: Its value at the start.
        least, most: Bounds.
        bias: Start of a learned offset beside it; None for none.
    """

    def __init__(
        self, start: float, *, least: float = 0.0, most: float = math.inf, bias: float | None = None
    ):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.log_least, self.log_most = math.log(least) if least else -math.inf, math.log(most)

    def forward(self) -> Tensor:
        """() the scale within its bounds."""
        # the bounds let gradients through, so that a scale that has reached one can come back
        bounded = self.log + (self.log.clamp(self.log_least, self.log_most) - self.log).detach()
        return bounded.exp()
