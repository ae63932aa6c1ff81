"""A variational autoencoder of tokens: one short vector for each, of several descriptors of the
same place, say. Kingma and Welling, ICLR 2014, arXiv:1312.6114; with one hidden layer as in
BioFusionNet (Mondal et al. 2024, arXiv:2402.10717)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Tokens, name_code
from amodal.masking.hashing import normal
from amodal.objectives.gaussian_kl import negative_elbo


class Autoencoder(nn.Module):
    def __init__(self, width: int, hidden: int, latent: int):
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.mean, self.log_variance = (nn.Linear(hidden, latent) for _ in range(2))
        self.leave = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.back = nn.Linear(latent, width)

    def forward(self, x_TD: Tensor, noise_TL: Tensor) -> tuple[Tensor, Tensor]:
        """Means (T, latent), and of each token the loss (T,) over the width. What is to be told is
        taken as given: it does not move to be told better."""
        inside = self.enter(x_TD)
        mean, log_variance = self.mean(inside), self.log_variance(inside)
        decoded = self.leave(mean + (log_variance / 2).exp() * noise_TL)
        return mean, negative_elbo(x_TD.detach(), decoded, mean, log_variance) / x_TD.shape[1]

    def compress(self, bag: Tokens, seeds: Tensor) -> tuple[Tokens, Tensor]:
        """The tokens as their means tell them, in the width that they had, and their losses (T,).
        seeds: of the rows (B,), from which what is drawn follows."""
        place = bag.within()[:, None]
        number = torch.arange(self.mean.out_features, device=seeds.device)
        noise = normal(seeds[bag.row, None], name_code("compressed"), place, number).to(bag.x.dtype)
        means, loss_T = self(bag.x, noise)
        return bag.with_x(self.back(means)), loss_T
