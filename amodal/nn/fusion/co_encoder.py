"""Co-attention: streams of tokens that read each other layer by layer.

METER's fusion module (Dou et al., CVPR 2022, arXiv:2111.02387, section 3.2), for any number of
streams, each with weights of its own; pre-norm, as elsewhere in this library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Ragged
from amodal.nn.attention.cross import CrossBlock, PaddedLayout, mean_token
from amodal.nn.fusion.co_attention import others


class CoEncoder(nn.Module):
    """Layers of self-attention, attention to the other streams, and an MLP.

    A layer reads the other streams as they were before it.

    Args:
        fields: The streams.
        width: D.
        depth: Layers.
        heads: Of attention.
    """

    def __init__(self, fields: Sequence[str], width: int, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleDict(
            {s: nn.ModuleList(CrossBlock(width, heads) for _ in range(depth)) for s in fields}
        )
        self.keys = nn.ModuleDict(
            {s: nn.ModuleList(nn.LayerNorm(width) for _ in range(depth)) for s in fields}
        )
        self.norms = nn.ModuleDict({s: nn.LayerNorm(width) for s in fields})
        self.depth = depth

    def forward(self, lists: dict[str, Ragged]) -> dict[str, Ragged]:
        """The tokens after all layers and a norm.

        Args:
            lists: Stream -> N lists of tokens (length, D), any of them empty, of some of the
                streams. A list without tokens of other streams beside it reads nothing.
        """
        layouts = {s: PaddedLayout(tokens.lengths) for s, tokens in lists.items()}
        for layer in range(self.depth):
            after = {}
            for s, tokens in lists.items():
                rest = others(lists, s)
                keys = self.keys[s][layer](rest.flat)  # type: ignore[index]  # a ModuleList
                block = self.blocks[s][layer]  # type: ignore[index]  # a ModuleList
                x_TD, _ = block(tokens.flat, keys, layouts[s], PaddedLayout(rest.lengths), False)
                after[s] = Ragged(x_TD, tokens.lengths)
            lists = after
        return {
            s: Ragged(self.norms[s](tokens.flat), tokens.lengths) for s, tokens in lists.items()
        }

    def means(self, lists: dict[str, Ragged]) -> Tensor:
        """(N, streams x D): the mean tokens of all streams, zero for an empty list."""
        return torch.cat([mean_token(tokens) for tokens in self(lists).values()], 1)

    def read(self, field: str, other: str, tokens: Ragged, other_tokens: Ragged) -> Ragged:
        """The tokens of `field`, after they and those of `other` have read each other."""
        result: Ragged = self({field: tokens, other: other_tokens})[field]
        return result
