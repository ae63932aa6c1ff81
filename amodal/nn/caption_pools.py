"""The poolings of contrastive captioners.

Yu et al., TMLR 2022, arXiv:2205.01917, section 3.2: attentional poolers of what is described, and a
class token at the end of a text that is read in a causal order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.core.host import on_host, take
from amodal.core.part import Part
from amodal.nn.attention.cross import PaddedAttention, PaddedLayout
from amodal.nn.multi_vector import token_column
from amodal.nn.pooling import Pool


class AttentionalPooler(nn.Module):
    """Learned queries read the tokens of a list by one layer of attention with many heads.

    Args:
        width: D.
        heads: H.
        queries: How many vectors a list becomes.
    """

    def __init__(self, width: int, heads: int, queries: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.norm, self.attention = nn.LayerNorm(width), PaddedAttention(width, heads)
        for module in self.attention.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, lists: Ragged) -> Ragged:
        """N lists of tokens (length, D) -> N lists (queries, D)."""
        counts = on_host(lambda n: torch.full_like(n, len(self.queries)), lists.lengths)
        keys_TD = self.norm(lists.flat)
        x_TD = self.queries.to(keys_TD.dtype).repeat(len(lists), 1)
        layouts = PaddedLayout(counts), PaddedLayout(lists.lengths)
        return Ragged(self.attention(x_TD, keys_TD, *layouts)[0], counts)


class CaptionerPool(Part, Pool):
    """A pooler with many queries, which a decoder reads, and one with a single query.

    Args:
        width: D.
        heads: Of attention.
        queries: Of the first pooler; 0 for none: a decoder reads the tokens.
        cascade: The single query reads what the first pooler gives, else the tokens themselves.
    """

    def __init__(self, width: int, heads: int, *, queries: int = 256, cascade: bool = True):
        super().__init__(width)
        self.generative = AttentionalPooler(width, heads, queries) if queries else None
        self.contrastive = AttentionalPooler(width, heads, 1)
        self.cascade = cascade

    def read(self, tokens: Tokens) -> Column:
        """What a decoder reads: lists (queries, D) of the rows that have tokens."""
        column = token_column(tokens)
        if self.generative is None:
            return column
        assert isinstance(column.values, Ragged)
        return Column(self.generative(column.values), column.rows)

    def summarise(self, tokens: Tokens, read: Column) -> Column:
        """The vectors (N, D).

        Args:
            tokens: As they leave the trunk.
            read: What `read` gives of them.
        """
        lists = (read if self.cascade else token_column(tokens)).values
        assert isinstance(lists, Ragged)
        return Column(self.contrastive(lists).flat, read.rows)

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        return self.summarise(tokens, self.read(tokens))


class CausalTextPool(Part, Pool):
    """A token before the text, and a class token behind it, which is the vector of the text.

    In a causal trunk the class token reads the whole text and no token reads it.

    Args:
        width: D.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.start, self.token = (nn.Parameter(torch.randn(width) * 0.02) for _ in range(2))

    def prepare(self, tokens: Tokens) -> Tokens:
        """Put the tokens around those of each row."""
        rows = tokens.rows()
        source = take(tokens.source, tokens.skeleton().within() == 0)
        position = tokens.position.new_zeros(len(rows), tokens.position.shape[1])

        def single(x_D: Tensor) -> Tokens:
            x_ND = x_D.to(tokens.x.dtype).expand(len(rows), -1)
            return Tokens(x_ND, rows, source, position, tokens.names, tokens.size)

        return Tokens.join([single(self.start), tokens, single(self.token)])

    def strip(self, tokens: Tokens) -> Tokens:
        """Remove both."""
        inner = tokens.skeleton()
        return tokens.keep((inner.within() > 0) & ~_is_last(inner))

    def states(self, tokens: Tokens) -> Tokens:
        """The tokens before which, one by one, a text goes on: all but the class token."""
        return tokens.keep(~_is_last(tokens.skeleton()))

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        rows = tokens.rows()
        ends = on_host(lambda n: n.cumsum(0) - 1, tokens.lengths())
        return Column(tokens.x[take(ends, rows)], rows)

    def single(self, tokens: Tokens) -> Tensor:
        """See `Pool.single`; a token stands in the place of the class token."""
        return tokens.x


def _is_last(skeleton: Tokens) -> Tensor:
    """(T,) bool, on the CPU: the last token of each row."""
    return skeleton.within() == skeleton.lengths()[skeleton.row] - 1
