"""A variational autoencoder of tokens, which makes one short vector of each.

Kingma and Welling, ICLR 2014, arXiv:1312.6114; with one hidden layer as in BioFusionNet (Mondal et
al. 2024, arXiv:2402.10717), where tokens hold several descriptors of the same place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Tokens, name_code
from amodal.masking.hashing import normal
from amodal.objectives.gaussian_kl import kl_per_row


class Autoencoder(nn.Module):
    """Encoder, Gaussian latent and decoder of single tokens.

    Args:
        width: D of the tokens.
        hidden: Width of the hidden layers.
        latent: L, dimensions of the latent.
        compresses: Whether `compress` is used, which has a map of its own back to D.
    """

    def __init__(self, width: int, hidden: int, latent: int, *, compresses: bool = True):
        super().__init__()
        self.in_proj = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.mean, self.log_variance = (nn.Linear(hidden, latent) for _ in range(2))
        self.out_proj = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.latent_proj = nn.Linear(latent, width) if compresses else None

    def means(self, x_TD: Tensor) -> Tensor:
        """(T, L) means of the latent."""
        means: Tensor = self.mean(self.in_proj(x_TD))
        return means

    def forward(self, x_TD: Tensor, noise_TL: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and decode.

        Args:
            x_TD: Tokens. As targets of the decoder they get no gradient, or they would move to be
                easy to decode.
            noise_TL: Standard normal.

        Returns:
            Means (T, L), and the loss of each token over D, (T,): the squared error plus the
            divergence from the prior, as of a Gaussian of variance 1/2.
        """
        hidden = self.in_proj(x_TD)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        decoded = self.out_proj(mean + (log_variance / 2).exp() * noise_TL)
        error = (x_TD.detach() - decoded).square().sum(1)
        return mean, (error + kl_per_row(mean, log_variance)) / x_TD.shape[1]

    def losses(self, tokens: Tokens, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Means (T, L) and losses (T,) of tokens.

        Args:
            tokens: x (T, D).
            seeds: (B,) int64 of the rows, from which the noise follows.
        """
        place = tokens.within()[:, None]
        number = torch.arange(self.mean.out_features, device=seeds.device)
        noise = normal(seeds[tokens.row, None], name_code("compressed"), place, number)
        means, loss_T = self(tokens.x, noise.to(tokens.x.dtype))
        return means, loss_T

    def compress(self, tokens: Tokens, seeds: Tensor) -> tuple[Tokens, Tensor]:
        """Tokens through the latent's mean, in the width that they had.

        Args:
            tokens, seeds: See `losses`.

        Returns:
            The tokens, and their losses (T,).
        """
        assert self.latent_proj is not None
        means, loss_T = self.losses(tokens, seeds)
        return tokens.with_x(self.latent_proj(means)), loss_T
