"""Heads for dense prediction from tokens of patches: a map of an image, or of change between two.

A patch is decoded from its own token, which has seen the whole image, in place of a U-Net's
upsampling path. The Siamese pair is after Daudt, Le Saux and Boulch 2018, arXiv:1810.08462
(FC-Siam-conc and FC-Siam-diff), with a shared encoder and one decoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def both(one_TD: Tensor, other_TD: Tensor) -> Tensor:
    """(T, D) and (T, D) -> (T, 2 D), side by side: FC-Siam-conc."""
    return torch.cat([one_TD, other_TD], 1)


def difference(one_TD: Tensor, other_TD: Tensor) -> Tensor:
    """(T, D) and (T, D) -> (T, D), the absolute difference: FC-Siam-diff."""
    return (one_TD - other_TD).abs()


class DenseHead(nn.Module):
    """Tokens -> scores of classes for each pixel of their patches.

    Args:
        width: D of the tokens.
        tile: Side of a patch in pixels.
        classes: Outputs for a pixel.
        hidden: Of the perceptron; 0 for a linear map.
    """

    def __init__(self, width: int, tile: int, *, classes: int = 1, hidden: int = 0):
        super().__init__()
        out = classes * tile * tile
        inner = (
            [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out)]
            if hidden
            else [nn.Linear(width, out)]
        )
        self.tile, self.classes, self.net = (
            tile,
            classes,
            nn.Sequential(nn.LayerNorm(width), *inner),
        )

    def forward(self, x_TD: Tensor, side: int) -> Tensor:
        """T = N side^2 tokens, in reading order -> (N, classes, side * tile, side * tile)."""
        x = self.net(x_TD).view(-1, side, side, self.classes, self.tile, self.tile)
        # (N, rows, columns, K, tile, tile) -> (N, K, rows, tile, columns, tile) -> (N, K, H, W)
        out: Tensor = x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        return out


class SiameseHead(nn.Module):
    """Tokens of the same place at two times -> scores of change for each pixel.

    Args:
        width, tile, classes, hidden: See `DenseHead`.
        combine: `both` or `difference`.
    """

    def __init__(
        self,
        width: int,
        tile: int,
        *,
        classes: int = 1,
        hidden: int = 0,
        combine: Callable[[Tensor, Tensor], Tensor] = difference,
    ):
        super().__init__()
        self.combine = combine
        wide = combine(torch.zeros(1, width), torch.zeros(1, width)).shape[1]
        self.head = DenseHead(wide, tile, classes=classes, hidden=hidden)

    def forward(self, before_TD: Tensor, after_TD: Tensor, side: int) -> Tensor:
        """As `DenseHead.forward`."""
        out: Tensor = self.head(self.combine(before_TD, after_TD), side)
        return out
