"""One token after another: each is told from those before it and from one vector of the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import POSITION_DIMS, Column, Tokens
from amodal.core.host import to_device
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.varlen import layout_of
from amodal.nn.positions import sincos
from amodal.nn.transformer import Block


class CausalDecoder(nn.Module):
    """An autoregressive transformer (Vaswani et al. 2017) that reads one vector per row beside the
    tokens before.

    Cross-attention to a single vector has one weight, which is 1: all that is left of it is a
    linear map of that vector, added to every token in every block. The same vector, by another map,
    stands before the first token.
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
        """whole: (N, width_in), a vector for each row that has tokens; content: what the tokens
        hold, x (T, width_in), one source. Returns what is known of each token before it is seen, x
        (T, width).

        A token's place is its number and not its position, since the time of an event, say, is part
        of what is to be told.
        """
        number, owner = content.within(), torch.searchsorted(whole.rows, content.row)
        before = self.enter(torch.cat([content.x[:1], content.x[:-1]]))
        x_TD = torch.where((number == 0).unsqueeze(1), self.start(whole.values)[owner], before)
        place = nn.functional.pad(
            number.to(x_TD.dtype).unsqueeze(1), (0, content.position.shape[1] - 1)
        )
        x_TD = x_TD + sincos(place, x_TD.shape[1]).to(x_TD.dtype)
        layout = layout_of(content, causal=True)
        x_TD, owner = layout.enter(x_TD), layout.enter(owner)
        for block, told in zip(self.blocks, self.told):
            x_TD, _ = block(x_TD + told(whole.values)[owner], layout)
        return content.with_x(layout.leave(self.norm(x_TD)))

    @torch.no_grad()
    def step(self, whole: Column, last: Tensor | None, cache: KeyValueCache) -> Tensor:
        """What is known of the next token of every row of `whole`; each call costs one token a row.

        Args:
            whole: (N, width_in), as in `forward`. last: (N, width_in) what the token before holds;
            None at the start. cache: empty at the start; the same in every call.
            `KeyValueCache.select` chooses rows anew, by their number 0 … N - 1.

        Returns: (N, width).
        """
        x_ND = self.start(whole.values) if last is None else self.enter(last)
        number = cache.lengths(len(whole)).to(x_ND)
        x_ND = x_ND + sincos(
            nn.functional.pad(number.unsqueeze(1), (0, POSITION_DIMS - 1)), x_ND.shape[1]
        ).to(x_ND.dtype)
        rows, device = torch.arange(len(whole)), x_ND.device
        each, position = torch.ones_like(rows), x_ND.new_zeros(len(rows), POSITION_DIMS)
        tokens = Tokens.of(
            x_ND, to_device(rows, device), to_device(each, device), position, "token", len(rows)
        )
        layout = layout_of(tokens, causal=True, cache=cache)
        x_ND, memory = layout.enter(x_ND), layout.enter(whole.values)
        for block, told in zip(self.blocks, self.told):
            x_ND, _ = block(x_ND + told(memory), layout)
        return layout.leave(self.norm(x_ND))
