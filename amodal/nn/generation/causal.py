"""One token after another: each is told from those before it and from one vector of the whole."""

from __future__ import annotations

import torch
from torch import nn

from amodal.core import Column, Tokens
from amodal.nn.attention.varlen import layout_of
from amodal.nn.positions import sincos
from amodal.nn.transformer import Block


class CausalDecoder(nn.Module):
    """An autoregressive transformer (Vaswani et al. 2017) that reads one vector per row beside the tokens before.

    Cross-attention to a single vector has one weight, which is 1: all that is left of it is a linear map of that vector, added to
    every token in every block. The same vector, by another map, stands before the first token.
    """

    def __init__(self, width_in: int, *, width: int, depth: int, heads: int):
        super().__init__()
        self.start, self.enter = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.told = nn.ModuleList(nn.Linear(width_in, width) for _ in range(depth))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, whole: Column, content: Tokens) -> Tokens:
        """whole: (N, width_in), a vector for each row that has tokens; content: what the tokens hold, x (T, width_in), one source.
        Returns what is known of each token before it is seen, x (T, width).

        A token's place is its number and not its position, since the time of an event, say, is part of what is to be told.
        """
        number, owner = content.within(), torch.searchsorted(whole.rows, content.row)
        before = self.enter(torch.cat([content.x[:1], content.x[:-1]]))
        x_TD = torch.where((number == 0).unsqueeze(1), self.start(whole.values)[owner], before)
        place = nn.functional.pad(number.to(x_TD.dtype).unsqueeze(1), (0, content.position.shape[1] - 1))
        x_TD = x_TD + sincos(place, x_TD.shape[1]).to(x_TD.dtype)
        layout = layout_of(content, causal=True)
        x_TD, owner = layout.enter(x_TD), layout.enter(owner)
        for block, told in zip(self.blocks, self.told):
            x_TD, _ = block(x_TD + told(whole.values)[owner], layout)
        return content.with_x(layout.leave(self.norm(x_TD)))
