"""Frozen trunks that run block by block side by side and tell each other, through narrow adapters,
what they have seen.

Chumachenko, Iosifidis and Gabbouj, MMA-DFER, CVPR 2024 workshops, arXiv:2404.09010, sections 3.2
(progressive prompts) and 3.3 (fusion bottleneck); gates and norms as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from amodal.core import AmodalError, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import PROMPT, are_prompts, depth_of, put_in, taken_out
from amodal.nn.adapters.read_only_prompts import trunk_of
from amodal.nn.encoder import Encoder
from amodal.nn.trunks import Bags

Block = Callable[..., Tokens]


class ParallelAdapters(Part):
    """A `BlockHook` for a field alone, and `together` for all fields of a row.

    After every block a token x of a field becomes x + tanh(g) GELU(up(v + mean of the others)), v =
    LayerNorm(down(x)): `others` is the mean v of all tokens of each other field that the row has, g
    begins at 0. prompts: learned tokens of a group; a group begins at each `every`-th block: all
    are there from the first block on, and that block adds to those of its group. bottleneck: width
    of v; 0: no adapters, and fields do not meet.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int,
        depth: int,
        *,
        prompts: int = 3,
        every: int = 6,
        bottleneck: int = 128,
    ):
        super().__init__()
        if prompts < 0 or every < 1 or bottleneck < 0 or not prompts + bottleneck:
            raise AmodalError(
                f"prompts = {prompts} and bottleneck = {bottleneck} are 0 or more and not both 0, every = {every} at least 1"
            )
        self.depth, self.prompts, self.every, self.bottleneck = depth, prompts, every, bottleneck
        groups = -(-depth // every) if prompts else 0
        tokens = lambda *shape: nn.Parameter(torch.randn(*shape, width) * width**-0.5)  # noqa: E731
        self.start = nn.ParameterDict(
            {s: tokens(groups * prompts) for s in fields} if groups else {}
        )
        self.later = nn.ParameterDict(
            {s: tokens(groups, prompts) for s in fields} if groups else {}
        )
        per_block = lambda make: nn.ModuleDict(
            {s: nn.ModuleList(map(make, range(depth))) for s in fields}
        )  # noqa: E731
        if bottleneck:
            self.down = per_block(
                lambda _: nn.Sequential(nn.Linear(width, bottleneck), nn.LayerNorm(bottleneck))
            )
            self.up = per_block(lambda _: nn.Sequential(nn.Linear(bottleneck, width), nn.GELU()))
            self.gate = nn.ParameterDict({s: nn.Parameter(torch.zeros(depth)) for s in fields})

    def forward(self, layer: int, tokens: Tokens, block: Block) -> Tokens:
        source = next(n for n in tokens.names if n != PROMPT)
        return self.step(layer, {source: tokens}, {source: block})[source]

    def together(self, encoder: Encoder, bags: Bags, meet: bool = True) -> Bags:
        """As `Encoder.encode`, but fields of a row exchange what they see. bags: of
        `Encoder.tokenize`, one view of each field."""
        bags = {s: encoder.pools[field_of(s)].prepare(bag) for s, bag in bags.items()}
        trunks = {s: trunk_of(encoder, field_of(s)) for s in bags}
        for layer in range(self.depth):
            blocks = {s: partial(trunk.block, layer) for s, trunk in trunks.items()}
            bags = self.step(layer, bags, blocks, meet)
        bags = {s: bag.with_x(trunks[s].norm(bag.x)) for s, bag in bags.items()}
        return {
            s: encoder.extra_blocks[f](bag) if (f := field_of(s)) in encoder.extra_blocks else bag
            for s, bag in bags.items()
        }

    def step(self, layer: int, bags: Bags, blocks: dict[str, Block], meet: bool = True) -> Bags:
        if layer == 0 and self.prompts:
            bags = {s: self.entered(bag, field_of(s)) for s, bag in bags.items()}
        bags = {s: blocks[s](bag) for s, bag in bags.items()}
        if self.bottleneck:
            bags = self.adapted(layer, bags, meet)
        if self.prompts and layer % self.every == 0:
            bags = {
                s: self.renewed(layer // self.every, bag, field_of(s)) for s, bag in bags.items()
            }
        return bags if layer < self.depth - 1 else {s: taken_out(bag) for s, bag in bags.items()}

    def adapted(self, layer: int, bags: Bags, meet: bool) -> Bags:
        low = {s: self.down[field_of(s)][layer](bag.x) for s, bag in bags.items()}
        means = {s: bag.with_x(low[s]).pool() for s, bag in bags.items()}
        result = {}
        for s, bag in bags.items():
            total, count = (
                low[s].new_zeros(bag.size, self.bottleneck),
                low[s].new_zeros(bag.size, 1),
            )
            for other in (means[o] for o in bags if o != s and meet):
                total = total.index_add(0, other.rows, other.values)
                count = count.index_add(0, other.rows, count.new_ones(len(other), 1))
            seen = low[s] + (total / count.clamp(min=1))[bag.row]
            gate = self.gate[field_of(s)][layer].tanh()
            result[s] = bag.with_x(
                bag.x + (gate * self.up[field_of(s)][layer](seen)).to(bag.x.dtype)
            )
        return result

    def entered(self, bag: Tokens, field: str) -> Tokens:
        rows = bag.rows()
        return put_in(bag, rows, self.start[field].expand(len(rows), -1, -1))

    def renewed(self, group: int, bag: Tokens, field: str) -> Tokens:
        there = are_prompts(bag)
        own = torch.zeros_like(self.start[field])
        own[group * self.prompts : (group + 1) * self.prompts] = self.later[field][group]
        added = own.to(bag.x.dtype).repeat(int(there.sum()) // len(own), 1)
        return bag.with_x(bag.x.masked_scatter(there.unsqueeze(1), bag.x[there] + added))


def parallel_adapters(encoder: Encoder, **options) -> ParallelAdapters:
    """For this encoder, whose trunks must be transformers of its own, each for one field at a time.
    Raises AmodalError."""
    if encoder.trunk == "joint":
        raise AmodalError(
            'fields meet between the blocks of trunks that read one field each; trunk="joint" is one for all'
        )
    return ParallelAdapters(list(encoder.fields), encoder.width, depth_of(encoder), **options)
