"""A causal decoder that reads several sources beside the tokens before.

Vaswani et al. 2017, arXiv:1706.03762, 3.1, pre-norm. How the sources are read: Libovický, Helcl and
Mareček, WMT 2018, arXiv:1811.04716, section 3. With q a token, N(q) its norm and A_i attention to
source i:

serial        q <- q + A_i(N_i(q)), source after source
parallel      q + sum_i A_i(N(q))
flat          q + A(N(q)), one softmax over the tokens of all sources
hierarchical  q + A'(N(q), {A_i(N(q))}), a second attention, to what was read from each source

In training, entries of what enters and of what each attention and the MLP add may be dropped.

A source that a row lacks takes no part: it adds nothing, and the second attention does not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import POSITION_DIMS, Ragged, name_code, unknown
from amodal.core.column import spans
from amodal.core.host import on_host, take
from amodal.masking.hashing import hash_bits
from amodal.nn.attention.cross import PaddedAttention, PaddedLayout, join_lists
from amodal.nn.drop_path import identity
from amodal.nn.dropout import seeded_dropout
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.hidden_dropout import Dropout
from amodal.nn.positions import sincos
from amodal.objectives.packed import row_index

STRATEGIES = ("serial", "parallel", "flat", "hierarchical")
_SALT = name_code("decoder dropout")  # other draws than those of the encoder
KeyValue = tuple[Tensor, Tensor]
"""Keys and values (M, H, L, d) of M texts."""


class MultiSourceDecoder(nn.Module):
    """Tokens of a text -> states from which the next token is predicted.

    Args:
        width_in: Of all tokens that enter.
        width: Of the states.
        depth: Blocks.
        heads: Of attention.
        sources: How many.
        strategy: One of `STRATEGIES`.

    Raises:
        AmodalError: For another strategy.
    """

    def __init__(
        self,
        width_in: int,
        *,
        width: int,
        depth: int,
        heads: int,
        sources: int,
        strategy: str = "hierarchical",
    ):
        super().__init__()
        if strategy not in STRATEGIES:
            raise unknown("strategy to read many sources", strategy, STRATEGIES)
        self.strategy = strategy
        self.start, self.in_proj = (
            nn.Parameter(torch.randn(width) * 0.02),
            nn.Linear(width_in, width),
        )
        self.source_projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width))
            for _ in range(sources)
        )
        self.blocks = nn.ModuleList(
            MultiSourceBlock(width, heads, sources, strategy) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        sources: Sequence[Ragged],
        content: Ragged,
        seeds_N: Tensor | None = None,
        rate: float = 0.0,
    ) -> Ragged:
        """States before each token, and one after the last.

        Args:
            sources: Of each, N lists of tokens (length, width_in), which may be empty.
            content: N lists of what the tokens to be predicted hold.
            seeds_N: int64, from which dropout is drawn.
            rate: Of the dropout of the tokens that enter and of what each part of a block adds.

        Returns:
            N lists (length + 1, width).
        """
        start = Ragged(
            self.start.to(content.flat.dtype).expand(len(content), -1),
            torch.ones_like(content.lengths),
        )
        text = join_lists([start, Ragged(self.in_proj(content.flat), content.lengths)])
        number = spans(torch.zeros_like(text.lengths), text.lengths)
        dropout = token_dropout(seeds_N, text.lengths, number, rate)
        x_TD = dropout(text.flat + position_of(number, text.flat), 0)
        lists, present_NS = self.project(sources)
        present_TS = take(present_NS, row_index(text.lengths))
        text_layout = PaddedLayout(text.lengths)
        layouts = [PaddedLayout(s.lengths) for s in lists]
        for i, block in enumerate(self.blocks):
            parts = partial(_of_block, dropout, i * (len(sources) + 2))
            x_TD = block(x_TD, [s.flat for s in lists], text_layout, layouts, present_TS, parts)
        return Ragged(self.norm(x_TD), text.lengths)

    def begin(self, sources: Sequence[Ragged]) -> Decoding:
        """The state in which texts are written token by token, for N rows with these sources."""
        return Decoding(self, sources)

    def project(self, sources: Sequence[Ragged]) -> tuple[list[Ragged], Tensor]:
        """The lists that the blocks read, and (N, S) bool, which sources each row has."""
        lists = [
            Ragged(projection(s.flat), s.lengths)
            for projection, s in zip(self.source_projections, sources)
        ]
        present_NS = torch.stack([on_host(lambda n: n > 0, s.lengths) for s in lists], 1)
        return [join_lists(lists)] if self.strategy == "flat" else lists, present_NS


def _of_block(dropout: Dropout, first: int, x_TD: Tensor, part: int) -> Tensor:
    return dropout(x_TD, 1 + first + part)


def token_dropout(
    seeds_N: Tensor | None, lengths_N: Tensor, number_T: Tensor, rate: float
) -> Dropout:
    """Dropout of tokens of N texts: a draw follows from a text's seed and the number of the token.

    Args:
        seeds_N: Of the texts, int64; None for no dropout.
        lengths_N: Of the texts.
        number_T: Of each token in its text.
        rate: Probability to drop an entry.
    """
    if seeds_N is None or not rate:
        return identity
    row_T = row_index(lengths_N)
    seed_T = hash_bits(seeds_N[row_T.to(seeds_N.device)], _SALT, number_T.to(seeds_N.device))
    return lambda x_TD, place: seeded_dropout(x_TD, seed_T, rate, place)


def position_of(number: Tensor, like: Tensor) -> Tensor:
    """The embeddings of the numbers of tokens in their text; `like` gives width and type."""
    position = pad(number.to(like.dtype).unsqueeze(1), (0, POSITION_DIMS - 1))
    return sincos(position, like.shape[1]).to(like.dtype)


class Decoding:
    """Texts that a decoder is writing, with a key/value cache: each token costs one pass of itself.

    Of every block it holds the keys and values of the texts so far and, computed once, those of the
    sources.

    Args:
        decoder: The decoder.
        sources: Of each, N lists of tokens (length, width_in).
    """

    def __init__(self, decoder: MultiSourceDecoder, sources: Sequence[Ragged]):
        self.decoder, self.written = decoder, 0
        lists, self.present_NS = decoder.project(sources)
        layouts = [PaddedLayout(s.lengths) for s in lists]
        self.masks = [layout.mask for layout in layouts]
        self.blocks = [block for block in decoder.blocks if isinstance(block, MultiSourceBlock)]
        self.sources: list[list[KeyValue]] = [
            [
                cast(PaddedAttention, attention).keys(s.flat, layout)
                for attention, s, layout in zip(block.source_attention, lists, layouts)
            ]
            for block in self.blocks
        ]
        self.cache: list[KeyValue | None] = [None] * len(self.blocks)

    @torch.no_grad()
    def step(self, last_MD: Tensor | None, owner: Tensor, parent: Tensor) -> Tensor:
        """The state before the next token of each of M texts.

        Args:
            last_MD: (M, width_in) what the token before holds; None at the start.
            owner: (M,) the row that each text is of.
            parent: (M,) which of the texts of the step before each goes on with; not read at the
                start.

        Returns:
            (M, width).
        """
        decoder = self.decoder
        x_MD = decoder.start.expand(len(owner), -1) if last_MD is None else decoder.in_proj(last_MD)
        x_MD = x_MD + position_of(torch.full_like(owner, self.written), x_MD)
        present_MS = self.present_NS[owner]
        masks = [None if m is None else m[owner] for m in self.masks]
        for i, block in enumerate(self.blocks):
            sources = [(k[owner], v[owner], mask) for (k, v), mask in zip(self.sources[i], masks)]
            cache = self.cache[i]
            before = None if cache is None else (cache[0][parent], cache[1][parent])
            x_MD, self.cache[i] = block.step(x_MD, before, sources, present_MS)
        self.written += 1
        states: Tensor = decoder.norm(x_MD)
        return states


class MultiSourceBlock(nn.Module):
    """Causal self-attention, attention to the sources by a strategy, and an MLP, all pre-norm."""

    is_block = True

    def __init__(self, width: int, heads: int, sources: int, strategy: str, mlp_ratio: float = 4.0):
        super().__init__()
        hidden, self.strategy = int(width * mlp_ratio), strategy
        self.norm1, self.self_attention = nn.LayerNorm(width), PaddedAttention(width, heads)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) for _ in range(sources if strategy == "serial" else 1)
        )
        self.source_attention = nn.ModuleList(
            PaddedAttention(width, heads) for _ in range(1 if strategy == "flat" else sources)
        )
        self.choice_attention = (
            PaddedAttention(width, heads) if strategy == "hierarchical" else None
        )
        self.norm3, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )
        self.act = nn.GELU()

    def forward(
        self,
        x_TD: Tensor,
        sources: list[Tensor],
        text_layout: PaddedLayout,
        layouts: list[PaddedLayout],
        present_TS: Tensor,
        dropout: Dropout = identity,
    ) -> Tensor:
        """Tokens of N texts after the block.

        Args:
            x_TD: The tokens, text after text.
            sources: Of each, the tokens of N lists, end to end.
            text_layout, layouts: Of the texts, and of each source.
            present_TS: Bool, which sources the row of each token has.
            dropout: Of what is added: place 0 by self-attention, 1 by the MLP, then by each source.
        """
        return recomputed(self.compute, x_TD, sources, text_layout, layouts, present_TS, dropout)

    def compute(
        self,
        x_TD: Tensor,
        sources: list[Tensor],
        text_layout: PaddedLayout,
        layouts: list[PaddedLayout],
        present_TS: Tensor,
        dropout: Dropout = identity,
    ) -> Tensor:
        """`forward`, without gradient checkpointing."""
        normed = self.norm1(x_TD)
        context = self.self_attention(normed, normed, text_layout, text_layout, causal=True)[0]
        x_TD = x_TD + dropout(context, 0)

        def read(i: int, query: Tensor) -> Tensor:
            mixed: Tensor = self.source_attention[i](query, sources[i], text_layout, layouts[i])[0]
            return dropout(mixed, 2 + i)

        return self._rest(x_TD, read, present_TS, dropout)

    def step(
        self,
        x_MD: Tensor,
        before: KeyValue | None,
        sources: Sequence[tuple[Tensor, Tensor, Tensor | None]],
        present_MS: Tensor,
    ) -> tuple[Tensor, KeyValue]:
        """One token of each of M texts.

        Args:
            x_MD: The tokens.
            before: Keys and values (M, H, t, d) of the texts so far; None at the start.
            sources: Keys, values and mask of each source, text by text.
            present_MS: Bool, which sources the row of each text has.

        Returns:
            (M, D), and the keys and values of the texts with this token.
        """
        normed, attention = self.norm1(x_MD), self.self_attention
        key_value = attention.key_value(normed).unflatten(1, (2, attention.heads, -1))
        k, v = (t.unsqueeze(2) for t in key_value.unbind(1))
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        x_MD = x_MD + attention.step(normed, k, v)

        def read(i: int, query: Tensor) -> Tensor:
            return cast(PaddedAttention, self.source_attention[i]).step(query, *sources[i])

        return self._rest(x_MD, read, present_MS), (k, v)

    def _rest(
        self,
        x_TD: Tensor,
        read: Callable[[int, Tensor], Tensor],
        present_TS: Tensor,
        dropout: Dropout = identity,
    ) -> Tensor:
        """The sources and the MLP. read: (number of a source, queries) -> what they read."""
        # an empty list still gives the bias of `PaddedAttention.out`, which these weights remove
        weight = present_TS.to(x_TD.dtype).unsqueeze(2)
        if self.strategy == "serial":
            for i, norm in enumerate(self.norms):
                x_TD = x_TD + weight[:, i] * read(i, norm(x_TD))
        else:
            query = self.norms[0](x_TD)
            any_T = present_TS.any(1).to(x_TD.dtype).unsqueeze(1)
            mixed = [read(i, query) for i in range(len(self.source_attention))]
            if self.strategy == "parallel":
                x_TD = x_TD + (torch.stack(mixed, 1) * weight).sum(1)
            elif self.choice_attention is None:
                x_TD = x_TD + any_T * mixed[0]
            else:
                # each token is a list of one query, and reads what it has from the present sources
                query_layout = PaddedLayout(torch.ones(len(query), dtype=torch.int64))
                key = take(torch.stack(mixed, 1).flatten(0, 1), on_host(torch.flatten, present_TS))
                counts = on_host(lambda present: present.sum(1), present_TS)
                chosen = self.choice_attention(query, key, query_layout, PaddedLayout(counts))[0]
                x_TD = x_TD + any_T * chosen
        out: Tensor = x_TD + dropout(self.down(self.act(self.up(self.norm3(x_TD)))), 1)
        return out
