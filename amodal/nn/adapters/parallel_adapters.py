"""Frozen trunks that run block by block side by side and exchange messages by narrow adapters.

Chumachenko, Iosifidis and Gabbouj, MMA-DFER, CVPR 2024 workshops, arXiv:2404.09010, sections 3.2
(progressive prompts) and 3.3 (fusion bottleneck); gates and norms as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from amodal.core import AmodalError, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import depth_of
from amodal.nn.adapters.read_only_prompts import trunk_of
from amodal.nn.encoder import Encoder
from amodal.nn.inserted_tokens import PROMPT, are_prompts, insert, without_prompts
from amodal.nn.pooling import Pool
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import SourceTokens

Block = Callable[..., Tokens]


class ParallelAdapters(Part):
    """Narrow adapters between frozen trunks that run side by side, block by block.

    It is a `BlockHook` for a field alone; `together` is for all fields of a row. After every block
    a token x of a field becomes x + tanh(g) GELU(up(v + mean of the others)), v =
    LayerNorm(down(x)). The others are the mean v of all tokens of each other field that the row
    has; g begins at 0.

    Args:
        fields: The fields.
        width: D of their trunks.
        depth: Blocks of their trunks.
        prompts: Learned tokens of a group; 0 for none.
        every: A group of prompts begins at each `every`-th block. All groups are there from the
            first block on, and that block adds to those of its group.
        bottleneck: Width of v; 0 for no adapters, and then fields do not meet.

    Raises:
        AmodalError: For numbers out of range.
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
                f"prompts = {prompts} and bottleneck = {bottleneck} are 0 or more and not both 0, "
                f"every = {every} at least 1"
            )
        self.depth, self.prompts, self.every, self.bottleneck = depth, prompts, every, bottleneck
        groups = -(-depth // every) if prompts else 0

        def learned(*shape: int) -> nn.ParameterDict:
            tokens = {s: nn.Parameter(torch.randn(*shape, width) * width**-0.5) for s in fields}
            return nn.ParameterDict(tokens)

        def per_block(make: Callable[[], nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict({s: nn.ModuleList(make() for _ in range(depth)) for s in fields})

        self.start = learned(groups * prompts) if groups else nn.ParameterDict()
        self.later = learned(groups, prompts) if groups else nn.ParameterDict()
        if bottleneck:
            self.down = per_block(
                lambda: nn.Sequential(nn.Linear(width, bottleneck), nn.LayerNorm(bottleneck))
            )
            self.up = per_block(lambda: nn.Sequential(nn.Linear(bottleneck, width), nn.GELU()))
            self.gate = nn.ParameterDict({s: nn.Parameter(torch.zeros(depth)) for s in fields})

    def forward(self, layer: int, tokens: Tokens, block: Block) -> Tokens:
        """As a `BlockHook`, for the tokens of one field."""
        source = next(n for n in tokens.names if n != PROMPT)
        return self.step(layer, {source: tokens}, {source: block})[source]

    def together(self, encoder: Encoder, tokens: SourceTokens, meet: bool = True) -> SourceTokens:
        """As `Encoder.encode`, but the fields of a row exchange what they have seen.

        Args:
            encoder: The encoder.
            tokens: Of `Encoder.tokenize`, one view of each field.
            meet: False leaves each field alone.
        """
        tokens = {
            s: cast(Pool, encoder.pools[field_of(s)]).prepare(part) for s, part in tokens.items()
        }
        trunks = {s: cast(Transformer, trunk_of(encoder, field_of(s))) for s in tokens}
        for layer in range(self.depth):
            blocks = {s: partial(trunk.block, layer) for s, trunk in trunks.items()}
            tokens = self.step(layer, tokens, blocks, meet)
        tokens = {s: part.with_x(trunks[s].norm(part.x)) for s, part in tokens.items()}
        return {
            s: encoder.extra_blocks[f](part) if (f := field_of(s)) in encoder.extra_blocks else part
            for s, part in tokens.items()
        }

    def step(
        self, layer: int, tokens: SourceTokens, blocks: Mapping[str, Block], meet: bool = True
    ) -> SourceTokens:
        """One block of every source, its adapters and its prompts."""
        if layer == 0 and self.prompts:
            tokens = {s: self._with_prompts(part, field_of(s)) for s, part in tokens.items()}
        tokens = {s: blocks[s](part) for s, part in tokens.items()}
        if self.bottleneck:
            tokens = self._adapted(layer, tokens, meet)
        if self.prompts and layer % self.every == 0:
            group = layer // self.every
            tokens = {s: self._updated(group, part, field_of(s)) for s, part in tokens.items()}
        if layer < self.depth - 1:
            return tokens
        return {s: without_prompts(part) for s, part in tokens.items()}

    def _adapted(self, layer: int, tokens: SourceTokens, meet: bool) -> SourceTokens:
        low = {s: _layer(self.down, s, layer)(part.x) for s, part in tokens.items()}
        means = {s: part.with_x(low[s]).pool() for s, part in tokens.items()}
        result = {}
        for s, part in tokens.items():
            total = low[s].new_zeros(part.size, self.bottleneck)
            count = low[s].new_zeros(part.size, 1)
            for other in (means[o] for o in tokens if o != s and meet):
                total = total.index_add(0, other.rows, other.flat)
                count = count.index_add(0, other.rows, count.new_ones(len(other), 1))
            mixed = low[s] + (total / count.clamp(min=1))[part.row]
            # tanh(0) = 0: an adapter begins as nothing, and the frozen trunk as it was trained
            gate = self.gate[field_of(s)][layer].tanh()
            update = gate * _layer(self.up, s, layer)(mixed)
            result[s] = part.with_x(part.x + update.to(part.x.dtype))
        return result

    def _with_prompts(self, tokens: Tokens, field: str) -> Tokens:
        rows = tokens.rows()
        return insert(tokens, rows, self.start[field].expand(len(rows), -1, -1))

    def _updated(self, group: int, tokens: Tokens, field: str) -> Tokens:
        """The tokens, with the prompts of one group added to."""
        is_prompt = are_prompts(tokens)
        update = torch.zeros_like(self.start[field])
        update[group * self.prompts : (group + 1) * self.prompts] = self.later[field][group]
        # rows have the same number of prompts, in order, so repeating serves them all
        added = update.to(tokens.x.dtype).repeat(int(is_prompt.sum()) // len(update), 1)
        x_TD = tokens.x.masked_scatter(is_prompt.unsqueeze(1), tokens.x[is_prompt] + added)
        return tokens.with_x(x_TD)


def _layer(modules: nn.ModuleDict, source: str, layer: int) -> nn.Module:
    return cast(nn.ModuleList, modules[field_of(source)])[layer]


def parallel_adapters(encoder: Encoder, **options: Any) -> ParallelAdapters:
    """Adapters for an encoder.

    Args:
        encoder: Its trunks must be transformers of this library, and not joint.
        options: Of `ParallelAdapters`.

    Raises:
        AmodalError: For other encoders.
    """
    if encoder.trunk == "joint":
        raise AmodalError(
            'fields meet between the blocks of trunks that read one field each; trunk="joint" is '
            "one for all"
        )
    return ParallelAdapters(list(encoder.fields), encoder.width, depth_of(encoder), **options)
