"""A narrow Gaussian between a vector and its clusters, for several fields.

MIRROR's style clustering (Wang et al. 2025, arXiv:2503.00374): a variational bottleneck (Kingma and
Welling 2014, arXiv:1312.6114) before prototypes that begin orthogonal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Column
from amodal.masking.hashing import normal


class GaussianBottleneck(nn.Module):
    """A vector -> a Gaussian, a draw from it, and the draw's scores with the prototypes.

    Args:
        width: D.
        hidden: Width of the encoder's first layer.
        latent: Dimensions of the Gaussian.
        prototypes: K.
    """

    def __init__(self, width: int, hidden: int, latent: int, prototypes: int):
        super().__init__()
        self.in_proj = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden // 2)
        )
        self.mean, self.log_variance = (nn.Linear(hidden // 2, latent) for _ in range(2))
        self.out_proj, self.prototypes = (
            nn.Linear(latent, width),
            nn.Linear(width, prototypes, bias=False),
        )
        nn.init.orthogonal_(self.prototypes.weight)

    def forward(self, column: Column, seeds: Tensor, code: int) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw and score.

        Args:
            column: Vectors (N, D).
            seeds: (B,) int64 of all rows, from which the draw follows.
            code: Another code gives an independent draw.

        Returns:
            Mean (N, latent), log variance (N, latent), scores (N, K).
        """
        x = self.in_proj(column.flat)
        mean, log_variance = self.mean(x), self.log_variance(x)
        noise = normal(
            seeds[column.rows, None], code, torch.arange(mean.shape[1], device=x.device)
        ).to(x.dtype)
        return (
            mean,
            log_variance,
            self.prototypes(self.out_proj(mean + (log_variance / 2).exp() * noise)),
        )
