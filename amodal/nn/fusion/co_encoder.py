"""Co-attention: streams of tokens that read each other layer by layer, each with weights of its
own. METER's fusion module (Dou et al., CVPR 2022, arXiv:2111.02387, section 3.2), with the norms
before as elsewhere in this library, and for any number of streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Ragged
from amodal.nn.attention.cross import CrossBlock, Places, mean_token
from amodal.nn.fusion.co_attention import others


class CoEncoder(nn.Module):
    """`depth` layers of self-attention, attention to the tokens of the other streams as they were
    before the layer, and an MLP."""

    def __init__(self, fields: Sequence[str], width: int, depth: int, heads: int):
        super().__init__()
        self.blocks, self.keys = (
            nn.ModuleDict({s: nn.ModuleList(make() for _ in range(depth)) for s in fields})
            for make in (lambda: CrossBlock(width, heads), lambda: nn.LayerNorm(width))
        )
        self.norms = nn.ModuleDict({s: nn.LayerNorm(width) for s in fields})
        self.depth = depth

    def forward(self, lists: dict[str, Ragged]) -> dict[str, Ragged]:
        """lists: of some of the streams, N lists of tokens (length, D) each, any of them empty; row
        i reads row i. A list with nobody to read reads nothing."""
        places = {s: Places(tokens.lengths) for s, tokens in lists.items()}
        for layer in range(self.depth):
            after = {}
            for s, tokens in lists.items():
                rest = others(lists, s)
                read = self.keys[s][layer](rest.flat), places[s], Places(rest.lengths)
                after[s] = Ragged(
                    self.blocks[s][layer](tokens.flat, *read, False)[0], tokens.lengths
                )
            lists = after
        return {
            s: Ragged(self.norms[s](tokens.flat), tokens.lengths) for s, tokens in lists.items()
        }

    def means(self, lists: dict[str, Ragged]) -> Tensor:
        """(N, streams x D): the mean tokens of all streams, side by side, zero where there are
        none."""
        return torch.cat([mean_token(tokens) for tokens in self(lists).values()], 1)

    def read(self, field: str, other: str, tokens: Ragged, seen: Ragged) -> Ragged:
        """The tokens of `field` when they and those of `other` have read each other."""
        return self({field: tokens, other: seen})[field]
