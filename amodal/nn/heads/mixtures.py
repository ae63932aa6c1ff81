"""Heads into the space of square roots of mixtures of topics.

The cosine of two of them is Bhattacharyya's coefficient, and 1 minus it Hellinger's distance
squared, so search by cosine ranks mixtures by that distance.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core.part import Part

EPS = 1e-12
"""Keeps the gradient of the root of a share of zero finite."""


class MixtureHead(Part):
    """Predicts the shares of K topics by a linear map.

    Args:
        width_in: Of the features.
        topics: K.
        softmax: Whether topics compete; otherwise each has a sigmoid, and these are normalised.
    """

    def __init__(self, width_in: int, topics: int, softmax: bool = False):
        super().__init__()
        self.linear, self.softmax = nn.Linear(width_in, topics), softmax

    def logits(self, x_ND: Tensor) -> Tensor:
        """Features (N, D) -> (N, K)."""
        out: Tensor = self.linear(x_ND)
        return out

    def forward(self, x_ND: Tensor) -> Tensor:
        """Features (N, D) -> (N, K), unit vectors, the roots of shares."""
        o_NK = self.logits(x_ND)
        p_NK = o_NK.softmax(1) if self.softmax else normalize(o_NK.sigmoid(), p=1.0, dim=1)
        return (p_NK + EPS).sqrt()


class RootHead(Part):
    """Takes the roots of mixtures (`amodal.nn.backbones.topics`) that stand first in features.

    Args:
        topics: K.
    """

    def __init__(self, topics: int):
        super().__init__()
        self.topics = topics

    def forward(self, x_ND: Tensor) -> Tensor:
        """Features (N, D) -> (N, K), unit vectors."""
        return (x_ND[:, : self.topics] + EPS).sqrt()
