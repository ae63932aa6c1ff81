"""Tokens of one common space that are led into the upper blocks of several trunks (MMRL: Guo and
Gu, CVPR 2025, arXiv:2503.08497, 3.2; MMRL++: arXiv:2505.10088, which shares the maps and lets
tokens go on from block to block)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import PROMPT, are_prompts, depth_of, put_in, taken_out
from amodal.nn.adapters.lora import LowRank
from amodal.nn.encoder import Encoder


class Maps(nn.Module):
    """From the common space to one trunk, another map for each block. rank: 0 for linear maps of
    their own, else one weight for all blocks and a difference of that rank for each (MMRL++, their
    shared-residual representation aligner); biases are their own either way."""

    def __init__(self, space: int, width: int, blocks: int, rank: int = 0):
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(space, width) for _ in range(0 if rank else blocks))
        if rank:
            shared = nn.Linear(space, width)
            self.weight = shared.weight
            self.bias = nn.ParameterList(
                nn.Parameter(shared.bias.detach().clone()) for _ in range(blocks)
            )
            r = min(rank, space, width)
            self.residual = nn.ModuleList(
                LowRank(shared.weight, r, float(r)) for _ in range(blocks)
            )

    def forward(self, tokens_KS: Tensor, i: int) -> Tensor:
        """(K, width): the tokens for block `i` of those that have some."""
        if len(self.own):
            return self.own[i](tokens_KS)
        return nn.functional.linear(tokens_KS, self.residual[i](self.weight), self.bias[i])


class Apart(nn.Module):
    """Tokens that no space connects: learned for one trunk and each block (independent deep
    prompts)."""

    def __init__(self, count: int, width: int, blocks: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(blocks, count, width) * 0.02)

    def forward(self, tokens_KS: Tensor, i: int) -> Tensor:
        return self.tokens[i]


class SpaceTokens(Part):
    """A `BlockHook` for the trunks of all `fields`: K tokens enter at block `first` (counted from
    0), and at each later block they become beta of the block's own and 1 - beta of what they have
    become (1: they are replaced).

    count: K; space: width of the common space (0: there is none, see `Apart`); rank: see `Maps`.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int,
        depth: int,
        *,
        count: int = 5,
        space: int = 512,
        first: int = 0,
        beta: float = 1.0,
        rank: int = 0,
    ):
        super().__init__()
        if count < 1 or space < 0 or rank < 0 or not 0 <= first < depth or not 0 <= beta <= 1:
            raise AmodalError(
                f"tokens are at least one ({count}), of a space of width 0 or more ({space}), at block {first} of {depth} (counted "
                f"from 0), mixed by a share from 0 to 1 ({beta}), and ranks are not negative ({rank})"
            )
        self.count, self.space, self.first, self.beta, self.rank, self.depth = (
            count,
            space,
            first,
            beta,
            rank,
            depth,
        )
        self.bank = nn.Parameter(torch.randn(count, space) * 0.02)
        blocks = depth - first
        self.maps = nn.ModuleDict(
            {
                s: Maps(space, width, blocks, rank) if space else Apart(count, width, blocks)
                for s in fields
            }
        )

    def forward(
        self,
        layer: int,
        tokens: Tokens,
        block: Callable[..., Tokens],
        kept: dict[str, Column] | None = None,
    ) -> Tokens:
        """kept: field -> (N, K, D), what the tokens have become after the last block, before the
        trunk's norm."""
        field = field_of(next(n for n in tokens.names if n != PROMPT))
        if layer < self.first or field not in self.maps:
            return block(tokens)
        own_KD = self.maps[field](self.bank, layer - self.first)
        if layer == self.first:
            rows = tokens.rows()
            tokens = put_in(tokens, rows, own_KD.expand(len(rows), -1, -1))
        else:
            tokens = self.renewed(tokens, own_KD)
        tokens = block(tokens)
        if layer < self.depth - 1:
            return tokens
        if kept is not None:
            out = tokens.keep(are_prompts(tokens))
            kept[field] = Column(out.x.unflatten(0, (-1, self.count)), out.rows())
        return taken_out(tokens)

    def renewed(self, tokens: Tokens, own_KD: Tensor) -> Tokens:
        there = are_prompts(tokens)
        new = own_KD.to(tokens.x.dtype).repeat(int(there.sum()) // self.count, 1)
        if self.beta < 1:
            new = self.beta * new + (1 - self.beta) * tokens.x[there]
        return tokens.with_x(tokens.x.masked_scatter(there.unsqueeze(1), new))


def space_tokens(
    encoder: Encoder, *, fields: Sequence[str] = (), first: int | None = None, **options
) -> SpaceTokens:
    """For this encoder, whose fields must have trunks of their own. first: unless given the
    paper's, block 6 of 12. Raises AmodalError."""
    if encoder.trunk != "separate":
        raise AmodalError(
            f'tokens of a common space connect trunks that share nothing else; this encoder has trunk="{encoder.trunk}"'
        )
    depth = depth_of(encoder)
    first = max(depth // 2 - 1, 0) if first is None else first
    return SpaceTokens(list(fields or encoder.fields), encoder.width, depth, first=first, **options)
