"""A causal decoder that reads several sources: each token is told from those before it and from all
that the row has been given.

Vaswani et al. 2017, arXiv:1706.03762, 3.1, with the norm before. How several sources are read:
Libovický, Helcl and Mareček, WMT 2018, arXiv:1811.04716, section 3. With q a token, N(q) its norm
and A_i attention to source i:

serial        q <- q + A_i(N_i(q)), source after source
parallel      q + sum_i A_i(N(q))
flat          q + A(N(q)), one softmax over the tokens of all sources
hierarchical  q + A'(N(q), {A_i(N(q))}), a second attention, to what was read from each source

A source that a row lacks takes no part: it adds nothing, and the second attention does not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import POSITION_DIMS, Ragged, unknown
from amodal.core.column import spans
from amodal.core.host import on_host, take
from amodal.nn.attention.cross import Places, Read, side_by_side
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.positions import sincos
from amodal.objectives.packed import row_index

STRATEGIES = ("serial", "parallel", "flat", "hierarchical")


class MultiSourceDecoder(nn.Module):
    """width_in: of all tokens that enter; sources: how many; strategy: one of STRATEGIES, unknown
    ones raise AmodalError."""

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
            raise unknown("strategy to read several sources", strategy, STRATEGIES)
        self.start, self.enter = nn.Parameter(torch.randn(width) * 0.02), nn.Linear(width_in, width)
        self.given = nn.ModuleList(
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

    def forward(self, sources: Sequence[Ragged], content: Ragged) -> Ragged:
        """What is known before each token is seen, and at last after all of them.

        Args:
            sources: of each, N lists of tokens (length, width_in), which may be empty.
            content: N lists of what the tokens to be predicted hold.

        Returns: N lists (length + 1, width).
        """
        start = Ragged(
            self.start.to(content.flat.dtype).expand(len(content), -1),
            torch.ones_like(content.lengths),
        )
        seen = side_by_side([start, Ragged(self.enter(content.flat), content.lengths)])
        x_TD = seen.flat + self._numbers(
            spans(torch.zeros_like(seen.lengths), seen.lengths), seen.flat
        )
        lists, there_NS = self._enter(sources)
        there_TS = take(there_NS, row_index(seen.lengths))
        asks = Places(seen.lengths)
        answers = [Places(s.lengths) for s in lists]
        for block in self.blocks:
            x_TD = block(x_TD, [s.flat for s in lists], asks, answers, there_TS)
        return Ragged(self.norm(x_TD), seen.lengths)

    def begin(self, sources: Sequence[Ragged]) -> Decoding:
        """The state of a decoder that writes token by token for N rows, each from these sources."""
        return Decoding(self, sources)

    def _enter(self, sources: Sequence[Ragged]) -> tuple[list[Ragged], Tensor]:
        """The lists that the blocks read, and (N, S) which sources each row has."""
        lists = [Ragged(enter(s.flat), s.lengths) for enter, s in zip(self.given, sources)]
        there_NS = torch.stack([on_host(lambda n: n > 0, s.lengths) for s in lists], 1)
        return [side_by_side(lists)] if self.blocks[0].strategy == "flat" else lists, there_NS

    def _numbers(self, number: Tensor, like: Tensor) -> Tensor:
        """What is added to tokens of these numbers."""
        position = pad(number.to(like.dtype).unsqueeze(1), (0, POSITION_DIMS - 1))
        return sincos(position, like.shape[1]).to(like.dtype)


class Decoding:
    """Texts that a decoder is writing: what it keeps of them so that each new token costs one pass
    of itself.

    Of every block the keys and values of the tokens so far, and, computed once, those of the
    sources.
    """

    def __init__(self, decoder: MultiSourceDecoder, sources: Sequence[Ragged]):
        self.decoder, self.written = decoder, 0
        lists, self.there_NS = decoder._enter(sources)
        places = [Places(s.lengths) for s in lists]
        self.masks = [p.mask for p in places]
        self.sources = [
            [read.keys(s.flat, p) for read, s, p in zip(block.others, lists, places)]
            for block in decoder.blocks
        ]
        self.own: list[tuple[Tensor, Tensor] | None] = [None] * len(decoder.blocks)

    @torch.no_grad()
    def step(self, last_MD: Tensor | None, owner: Tensor, parent: Tensor) -> Tensor:
        """What is known of the next token of each of M texts.

        Args:
            last_MD: (M, width_in) what the token before holds; None at the start. owner: (M,) the
            row that each text is of. parent: (M,) which of the texts of the step before each goes
            on with; not read at the start.

        Returns: (M, width).
        """
        decoder = self.decoder
        x_MD = decoder.start.expand(len(owner), -1) if last_MD is None else decoder.enter(last_MD)
        x_MD = x_MD + decoder._numbers(torch.full_like(owner, self.written), x_MD)
        there_MS = self.there_NS[owner]
        masks = [None if m is None else m[owner] for m in self.masks]
        for i, block in enumerate(decoder.blocks):
            sources = [(k[owner], v[owner], mask) for (k, v), mask in zip(self.sources[i], masks)]
            before = None if self.own[i] is None else tuple(t[parent] for t in self.own[i])
            x_MD, self.own[i] = block.step(x_MD, before, sources, there_MS)
        self.written += 1
        return decoder.norm(x_MD)


class MultiSourceBlock(nn.Module):
    """Attention to the text so far, to the sources by a strategy, and an MLP, each with the norm
    before."""

    is_block = True

    def __init__(self, width: int, heads: int, sources: int, strategy: str, mlp_ratio: float = 4.0):
        super().__init__()
        hidden, self.strategy = int(width * mlp_ratio), strategy
        self.norm1, self.own = nn.LayerNorm(width), Read(width, heads)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) for _ in range(sources if strategy == "serial" else 1)
        )
        self.others = nn.ModuleList(
            Read(width, heads) for _ in range(1 if strategy == "flat" else sources)
        )
        self.choose = Read(width, heads) if strategy == "hierarchical" else None
        self.norm3, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )
        self.act = nn.GELU()

    def forward(
        self,
        x_TD: Tensor,
        given: list[Tensor],
        asks: Places,
        answers: list[Places],
        there_TS: Tensor,
    ) -> Tensor:
        return recomputed(self.compute, x_TD, given, asks, answers, there_TS)

    def compute(
        self,
        x_TD: Tensor,
        given: list[Tensor],
        asks: Places,
        answers: list[Places],
        there_TS: Tensor,
    ) -> Tensor:
        own = self.norm1(x_TD)
        x_TD = x_TD + self.own(own, own, asks, asks, causal=True)[0]
        return self._rest(
            x_TD, lambda i, query: self.others[i](query, given[i], asks, answers[i])[0], there_TS
        )

    def step(
        self,
        x_MD: Tensor,
        before: tuple[Tensor, ...] | None,
        sources: Sequence[tuple[Tensor, Tensor, Tensor | None]],
        there_MS: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token of each of M texts; also the keys and values (M, H, t, d) of the texts with it.
        before: those without it; sources: keys, values and mask of each, text by text."""
        own = self.norm1(x_MD)
        k, v = (
            t.unsqueeze(2)
            for t in self.own.key_value(own).unflatten(1, (2, self.own.heads, -1)).unbind(1)
        )
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        x_MD = x_MD + self.own.read(own, k, v)
        return self._rest(
            x_MD, lambda i, query: self.others[i].read(query, *sources[i]), there_MS
        ), (k, v)

    def _rest(
        self, x_TD: Tensor, read: Callable[[int, Tensor], Tensor], there_TS: Tensor
    ) -> Tensor:
        """The sources and the MLP. read: (number of a source, queries) -> what they read from it."""
        weight = there_TS.to(x_TD.dtype).unsqueeze(2)
        if self.strategy == "serial":
            for i, norm in enumerate(self.norms):
                x_TD = x_TD + weight[:, i] * read(i, norm(x_TD))
        else:
            query, any_T = self.norms[0](x_TD), there_TS.any(1).to(x_TD.dtype).unsqueeze(1)
            each = [read(i, query) for i in range(len(self.others))]
            if self.strategy == "parallel":
                x_TD = x_TD + (torch.stack(each, 1) * weight).sum(1)
            elif self.strategy == "flat":
                x_TD = x_TD + any_T * each[0]
            else:
                one = Places(torch.ones(len(query), dtype=torch.int64))
                # token by token, the sources that its row has
                present = take(torch.stack(each, 1).flatten(0, 1), on_host(torch.flatten, there_TS))
                counts = on_host(lambda there: there.sum(1), there_TS)
                x_TD = x_TD + any_T * self.choose(query, present, one, Places(counts))[0]
        return x_TD + self.down(self.act(self.up(self.norm3(x_TD))))
