"""A causal decoder: each token is predicted from those before it and from one vector of the row."""

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
    """An autoregressive transformer (Vaswani et al. 2017) that reads one vector a row.

    Cross-attention to a single vector has one weight, which is 1, so what is left of it is a linear
    map of the vector. It is added to every token in every block. The same vector, by another map,
    stands before the first token.

    Args:
        width_in: Of the vectors and of what tokens hold.
        width: Of the states.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, width_in: int, *, width: int, depth: int, heads: int):
        super().__init__()
        self.start, self.in_proj = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.context = nn.ModuleList(nn.Linear(width_in, width) for _ in range(depth))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, whole: Column, content: Tokens) -> Tokens:
        """The state before each token, from which it is predicted.

        A token's position is its number, and not its coordinates: those may be part of what is to
        be predicted, such as the time of an event.

        Args:
            whole: (N, width_in), a vector for each row that has tokens.
            content: What the tokens hold, x (T, width_in), of one source.

        Returns:
            The tokens with x (T, width).
        """
        vectors_ND = whole.flat
        number, owner = content.within(), torch.searchsorted(whole.rows, content.row)
        # shifted by one, over the borders of rows: what lands on a first token is replaced by the
        # start
        before = self.in_proj(torch.cat([content.x[:1], content.x[:-1]]))
        x_TD = torch.where((number == 0).unsqueeze(1), self.start(vectors_ND)[owner], before)
        place = nn.functional.pad(
            number.to(x_TD.dtype).unsqueeze(1), (0, content.position.shape[1] - 1)
        )
        x_TD = x_TD + sincos(place, x_TD.shape[1]).to(x_TD.dtype)
        layout = layout_of(content, causal=True)
        x_TD, owner = layout.enter(x_TD), layout.enter(owner)
        for block, context in zip(self.blocks, self.context):
            x_TD, _ = block(x_TD + context(vectors_ND)[owner], layout)
        return content.with_x(layout.leave(self.norm(x_TD)))

    @torch.no_grad()
    def step(self, whole: Column, last: Tensor | None, cache: KeyValueCache) -> Tensor:
        """The state before the next token of every row; each call costs one token a row.

        Args:
            whole: (N, width_in), as in `forward`.
            last: (N, width_in) what the token before holds; None at the start.
            cache: Empty at the start; the same in every call. `KeyValueCache.select` chooses rows
                anew, by their number 0 … N - 1.

        Returns:
            (N, width).
        """
        vectors_ND = whole.flat
        x_ND = self.start(vectors_ND) if last is None else self.in_proj(last)
        number = cache.lengths(len(whole)).to(x_ND)
        place = nn.functional.pad(number.unsqueeze(1), (0, POSITION_DIMS - 1))
        x_ND = x_ND + sincos(place, x_ND.shape[1]).to(x_ND.dtype)
        rows, device = torch.arange(len(whole)), x_ND.device
        counts, position = torch.ones_like(rows), x_ND.new_zeros(len(rows), POSITION_DIMS)
        tokens = Tokens.of(
            x_ND, to_device(rows, device), to_device(counts, device), position, "token", len(rows)
        )
        layout = layout_of(tokens, causal=True, cache=cache)
        x_ND, vectors_ND = layout.enter(x_ND), layout.enter(vectors_ND)
        for block, context in zip(self.blocks, self.context):
            x_ND, _ = block(x_ND + context(vectors_ND), layout)
        return layout.leave(self.norm(x_ND))
