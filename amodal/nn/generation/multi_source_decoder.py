"""A causal decoder that reads several sources: each token is told from those before it and from all that the row has been given.

Vaswani et al. 2017, arXiv:1706.03762, 3.1, with the norm before. How several sources are read: Libovický, Helcl and Mareček, WMT 2018,
arXiv:1811.04716, section 3. With q a token, N(q) its norm and A_i attention to source i:

serial        q <- q + A_i(N_i(q)), source after source
parallel      q + sum_i A_i(N(q))
flat          q + A(N(q)), one softmax over the tokens of all sources
hierarchical  q + A'(N(q), {A_i(N(q))}), a second attention, to what was read from each source

A source that a row lacks takes no part: it adds nothing, and the second attention does not see it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from amodal.core import POSITION_DIMS, Ragged, unknown
from amodal.core.column import spans
from amodal.nn.attention.cross import Places, Read, side_by_side
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.positions import sincos
from amodal.objectives.bags import owners

STRATEGIES = ("serial", "parallel", "flat", "hierarchical")


class MultiSourceDecoder(nn.Module):
    """width_in: of all tokens that enter; sources: how many; strategy: one of STRATEGIES, unknown ones raise AmodalError."""

    def __init__(
        self, width_in: int, *, width: int, depth: int, heads: int, sources: int, strategy: str = "hierarchical"
    ):
        super().__init__()
        if strategy not in STRATEGIES:
            raise unknown("strategy to read several sources", strategy, STRATEGIES)
        self.start, self.enter = nn.Parameter(torch.randn(width) * 0.02), nn.Linear(width_in, width)
        self.given = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width)) for _ in range(sources)
        )
        self.blocks = nn.ModuleList(MultiSourceBlock(width, heads, sources, strategy) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, sources: Sequence[Ragged], content: Ragged) -> Ragged:
        """sources: of each, N lists of tokens (length, width_in), which may be empty; content: N lists of what the tokens to be told
        hold. Returns N lists (length + 1, width): what is known before each token is seen, and at last after all of them."""
        first = Ragged(self.start.to(content.flat.dtype).expand(len(content), -1), torch.ones_like(content.lengths))
        seen = side_by_side([first, Ragged(self.enter(content.flat), content.lengths)])
        number = spans(torch.zeros_like(seen.lengths), seen.lengths)
        place = pad(number.to(seen.flat.dtype).unsqueeze(1), (0, POSITION_DIMS - 1))
        x_TD = seen.flat + sincos(place, seen.flat.shape[1]).to(seen.flat.dtype)
        given = [Ragged(enter(s.flat), s.lengths) for enter, s in zip(self.given, sources)]
        there_TS = torch.stack([s.lengths > 0 for s in given], 1)[owners(seen.lengths)]
        asks = Places(seen.lengths)
        if self.blocks[0].strategy == "flat":
            given = [side_by_side(given)]
        answers = [Places(s.lengths) for s in given]
        for block in self.blocks:
            x_TD = block(x_TD, [s.flat for s in given], asks, answers, there_TS)
        return Ragged(self.norm(x_TD), seen.lengths)


class MultiSourceBlock(nn.Module):
    def __init__(self, width: int, heads: int, sources: int, strategy: str, mlp_ratio: float = 4.0):
        super().__init__()
        hidden, self.strategy = int(width * mlp_ratio), strategy
        self.norm1, self.own = nn.LayerNorm(width), Read(width, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(sources if strategy == "serial" else 1))
        self.others = nn.ModuleList(Read(width, heads) for _ in range(1 if strategy == "flat" else sources))
        self.choose = Read(width, heads) if strategy == "hierarchical" else None
        self.norm3, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(
        self, x_TD: Tensor, given: list[Tensor], asks: Places, answers: list[Places], there_TS: Tensor
    ) -> Tensor:
        return recomputed(self.compute, x_TD, given, asks, answers, there_TS)

    def compute(
        self, x_TD: Tensor, given: list[Tensor], asks: Places, answers: list[Places], there_TS: Tensor
    ) -> Tensor:
        own = self.norm1(x_TD)
        x_TD = x_TD + self.own(own, own, asks, asks, causal=True)[0]
        weight = there_TS.to(x_TD.dtype).unsqueeze(2)
        if self.strategy == "serial":
            for i, (norm, read) in enumerate(zip(self.norms, self.others)):
                x_TD = x_TD + weight[:, i] * read(norm(x_TD), given[i], asks, answers[i])[0]
        else:
            query, any_T = self.norms[0](x_TD), there_TS.any(1).to(x_TD.dtype).unsqueeze(1)
            each = [read(query, y, asks, a)[0] for read, y, a in zip(self.others, given, answers)]
            if self.strategy == "parallel":
                x_TD = x_TD + (torch.stack(each, 1) * weight).sum(1)
            elif self.strategy == "flat":
                x_TD = x_TD + any_T * each[0]
            else:
                one = Places(torch.ones(len(query), dtype=torch.int64, device=query.device))
                read = torch.stack(each, 1)[there_TS]  # token by token, the sources that its row has
                x_TD = x_TD + any_T * self.choose(query, read, one, Places(there_TS.sum(1)))[0]
        return x_TD + self.down(gelu(self.up(self.norm3(x_TD))))
