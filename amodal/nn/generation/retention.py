"""What is hidden of an encoder's own output, predicted from the rest: MIRROR's decoders.

Wang et al. 2025, arXiv:2503.00374. Of a list of tokens some are hidden whole, of a single vector
some of its entries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Tokens
from amodal.nn.backbones.transmil import NystromLayer, TransMilOptions, lists_of_one_length
from amodal.nn.backbones.vector_transformer import VectorBlock
from amodal.nn.positions import sincos


class ListDecoder(nn.Module):
    """Predicts hidden tokens of lists by one layer of Nystrom attention.

    Args:
        width: D.
        heads: Of attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.layer = NystromLayer(TransMilOptions(width=width, heads=heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, tokens: Tokens, hidden_T: Tensor) -> Tensor:
        """Decode.

        Args:
            tokens: Of one source, class tokens included.
            hidden_T: (T,) bool.

        Returns:
            (hidden, D), in the order of the tokens.
        """
        mask_TD = self.mask.to(tokens.x.dtype).expand_as(tokens.x)
        x_TD = torch.where(hidden_T[:, None], mask_TD, self.embed(tokens.x))
        x_TD = x_TD + sincos(tokens.position, x_TD.shape[1]).to(x_TD.dtype)
        lengths = tokens.lengths()
        x_TD = lists_of_one_length(x_TD, lengths[lengths > 0], self.layer)
        out: Tensor = self.head(self.norm(x_TD[hidden_T]))
        return out


class VectorDecoder(nn.Module):
    """Predicts hidden entries of single vectors by one block between its heads.

    Args:
        width: D.
        heads: They divide D.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.mask = nn.Parameter(torch.randn(()) * 0.02)
        self.place = nn.Parameter(torch.randn(width) * 0.02)
        self.block = VectorBlock(width, heads)
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width)

    def forward(self, x_ND: Tensor, hidden_ND: Tensor) -> Tensor:
        """Decode.

        Args:
            x_ND: (N, D).
            hidden_ND: (N, D) bool.

        Returns:
            (N, D), predictions of all entries.
        """
        seen_ND = torch.where(hidden_ND, self.mask.to(x_ND.dtype), self.embed(x_ND))
        out: Tensor = self.head(self.norm(self.block(seen_ND + self.place)))
        return out
