"""A convolutional autoencoder whose pictures are codes: a tokenizer of pictures without labels.

VQ-VAE, van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937, sections 3.2 and 4.1. A code
stands for a square of pixels, of the side of a token; convolutions let it know what is around.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.nn.quantizers import VectorQuantizer


@dataclass(frozen=True)
class Coded:
    """What becomes of N pictures.

    Attributes:
        pixels: (N, C, H, W) as they are made from their codes.
        latents: (N, L, D) before they are quantized, row by row.
        commitment: (N,) how far these are from their codes, see `Quantized.loss`; mean over L.
    """

    pixels: Tensor
    latents: Tensor
    commitment: Tensor


class ResidualConv(nn.Module):
    """x + two convolutions of x, of which the first sees its neighbours.

    Args:
        width: Channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same."""
        added: Tensor = self.layers(x)
        return x + added


class VqAutoencoder(nn.Module):
    """Pictures -> a code for each `tile` x `tile` pixels -> pictures.

    Args:
        channels: C of the pictures.
        tile: Side of what a code is of, in pixels.
        codes: How many there are.
        width: D of a code's vector.
        hidden: Channels in between.
        depth: Residual layers at the smallest size, in the encoder and in the decoder.
    """

    def __init__(
        self,
        channels: int,
        tile: int,
        codes: int,
        *,
        width: int = 32,
        hidden: int = 64,
        depth: int = 2,
    ):
        super().__init__()
        steps = prime_factors(tile)
        down: list[nn.Module] = [nn.Conv2d(channels, hidden, 3, padding=1)]
        for step in steps:
            down += [ResidualConv(hidden), nn.Conv2d(hidden, hidden, step, stride=step)]
        down += [*(ResidualConv(hidden) for _ in range(depth)), nn.Conv2d(hidden, width, 1)]
        up: list[nn.Module] = [nn.Conv2d(width, hidden, 1)]
        up += [ResidualConv(hidden) for _ in range(depth)]
        for step in reversed(steps):
            up += [nn.ConvTranspose2d(hidden, hidden, step, stride=step), ResidualConv(hidden)]
        up += [nn.Conv2d(hidden, channels, 1)]
        self.codes, self.width = codes, width
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        # a code that has less than a hundredth of an even share of a small batch is set anew
        self.quantizer = VectorQuantizer(codes, width, restart=0.01)

    def forward(self, images: Tensor) -> Coded:
        """(N, C, H, W), sides of which the tile divides."""
        grid = self.encoder(images)
        latents = grid.flatten(2).transpose(1, 2)
        made = self.quantizer(latents.flatten(0, 1))
        near = made.x.view_as(latents).transpose(1, 2).reshape_as(grid)
        count = max(latents.shape[1], 1)
        return Coded(self.decoder(near), latents, made.loss.view(-1, count).mean(1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(N, L) int64, the codes of pictures (N, C, H, W), row by row."""
        latents = self.encoder(images).flatten(2).transpose(1, 2)
        return self.quantizer.encode(latents.flatten(0, 1)).view(latents.shape[:2])


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number of at least 1, ascending; [] for 1."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found
