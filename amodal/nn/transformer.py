"""One transformer for every kind of data: flat tokens in, flat tokens out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from amodal.core import AmodalError, Tokens, unknown
from amodal.nn.attention.varlen import Attention, Plan, Reads, plan, with_prefix
from amodal.nn.drop_path import Drop, drop_of, whole
from amodal.nn.experts import Experts
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.positions import Rotary


@dataclass(frozen=True)
class Size:
    """width D, blocks, heads; and the batch and learning rate that suit them (AdamW)."""

    width: int
    depth: int
    heads: int
    batch: int
    lr: float


SIZES = {
    "nano": Size(64, 2, 2, 256, 2e-3),
    "tiny": Size(128, 4, 4, 256, 1e-3),
    "small": Size(384, 12, 6, 512, 5e-4),
    "base": Size(768, 12, 12, 1024, 3e-4),
    "large": Size(1024, 24, 16, 2048, 2e-4),
    "huge": Size(1280, 32, 16, 2048, 1e-4),
}


def size_of(name: str) -> Size:
    if name not in SIZES:
        raise unknown("size", name, SIZES)
    return SIZES[name]


class Block(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al. 2021). Returns its output and the MLP's own part of it."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_TD: Tensor, how: Plan, rotate=None, routes=None, drop: Drop = whole) -> tuple[Tensor, Tensor]:
        return recomputed(self.compute, x_TD, how, rotate, drop)

    def compute(self, x_TD: Tensor, how: Plan, rotate, drop: Drop) -> tuple[Tensor, Tensor]:
        x_TD = x_TD + drop(self.attention(self.norm1(x_TD), how, rotate), 0)
        mlp_TD = drop(self.down(gelu(self.up(self.norm2(x_TD)))), 1)
        return x_TD + mlp_TD, mlp_TD


class SparseBlock(nn.Module):
    """The same, but each token's MLP is one of several; the router's logits go into `routes`, if that is asked for."""

    def __init__(self, width: int, heads: int, experts: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Experts(width, int(width * mlp_ratio), experts)

    def forward(
        self, x_TD: Tensor, how: Plan, rotate=None, routes: Routes | None = None, drop: Drop = whole
    ) -> tuple[Tensor, Tensor]:
        x_TD, mlp_TD, logits_TE = recomputed(self.compute, x_TD, how, rotate, drop)
        if routes is not None:
            routes.append(logits_TE)
        return x_TD, mlp_TD

    def compute(self, x_TD: Tensor, how: Plan, rotate, drop: Drop) -> tuple[Tensor, Tensor, Tensor]:
        x_TD = x_TD + drop(self.attention(self.norm1(x_TD), how, rotate), 0)
        mlp_TD, logits_TE = self.mlp(self.norm2(x_TD))
        mlp_TD = drop(mlp_TD, 1)
        return x_TD + mlp_TD, mlp_TD, logits_TE


Routes = list[Tensor]
"""(T, E) router logits of the sparse blocks, first to last."""

Collect = Callable[[list[Tensor], Tokens], Tensor]
"""(MLP outputs of every block (T, D), the tokens) -> (T, D'): what to return instead of the last block's output."""


Prefix = tuple[Tensor, Tensor]
"""Keys and values (B, P, D) that all tokens of a row read in one block, see `with_prefix`."""

Around = Callable[[int, Tokens, Callable[..., Tokens]], Tokens]
"""(number of a block, the tokens before it, the block) -> the tokens after it. The block takes any tokens, and `prefix`, as
`Transformer.block` does. Tokens may be put in and taken out, and those that entered the trunk must be all that leave it, in their order."""


class Planned:
    """`plan` for blocks that follow each other under one rule: made anew only when tokens came or went."""

    def __init__(self):
        self.last: tuple[Tokens, Plan] | None = None

    def __call__(self, tokens: Tokens, reads: Reads | None = None) -> Plan:
        if self.last is None or not _same_places(self.last[0], tokens):
            self.last = tokens, plan(tokens, reads)
        return self.last[1]


def _same_places(a: Tokens, b: Tokens) -> bool:
    return a.row is b.row and a.source is b.source and a.names == b.names


class Transformer(nn.Module):
    """Tokens -> Tokens. `reads` is the attention rule, None for full attention; `rotary` turns on rotary positions; `experts`:
    every second block, and so the last of an even number, is sparse and has so many."""

    def __init__(
        self, width: int, depth: int, heads: int, *, rotary: bool = False, reads: Reads | None = None, experts: int = 0
    ):
        super().__init__()
        self.rotary, self.reads = rotary, reads
        self.blocks = nn.ModuleList(
            SparseBlock(width, heads, experts) if experts and i % 2 else Block(width, heads) for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)

    def forward(
        self,
        tokens: Tokens,
        collect: Collect | None = None,
        routes: Routes | None = None,
        reads: Reads | None = None,
        around: Around | None = None,
    ) -> Tokens:
        """reads: another rule than the transformer's own, for this call; around: what is done with the tokens at each block."""
        if around is not None:
            if collect is not None or routes is not None:
                raise AmodalError(
                    "what blocks give and how they route cannot be collected where tokens are put between them"
                )
            inner, planned = tokens, Planned()
            for i in range(len(self.blocks)):
                inner = around(i, inner, partial(self.block, i, reads=reads, planned=planned))
            if len(inner) != len(tokens):
                raise ValueError(f"{len(tokens)} tokens entered the trunk and {len(inner)} leave it")
            return tokens.with_x(self.norm(inner.x))
        how = plan(tokens, reads or self.reads)
        x_TD, position = tokens.x, tokens.position
        if how.order is not None:
            x_TD, position = x_TD[how.order], position[how.order]
        rotate = Rotary(position, x_TD.shape[1] // self.blocks[0].attention.heads) if self.rotary else None
        outputs = []
        for i, block in enumerate(self.blocks):
            x_TD, mlp_TD = block(x_TD, how, rotate, routes, drop_of(block, i, len(self.blocks), tokens, how.order))
            if collect is not None:
                outputs.append(mlp_TD)
        x_TD = self.norm(x_TD)
        if how.order is not None:
            back = torch.argsort(how.order)
            x_TD, outputs = x_TD[back], [o[back] for o in outputs]
            if routes is not None:
                routes[:] = [logits[back] for logits in routes]
        return tokens.with_x(x_TD if collect is None else collect(outputs, tokens))

    def block(
        self,
        i: int,
        tokens: Tokens,
        *,
        prefix: Prefix | None = None,
        reads: Reads | None = None,
        planned: Callable[[Tokens, Reads | None], Plan] = plan,
    ) -> Tokens:
        """Block `i` alone, without the norm that ends a trunk: for streams that go block by block, side by side perhaps. planned: a
        `Planned` for each stream spares planning every block anew."""
        how = planned(tokens, reads or self.reads)
        if prefix is not None:
            how = with_prefix(how, tokens, *prefix)
        x_TD, position = tokens.x, tokens.position
        if how.order is not None:
            x_TD, position = x_TD[how.order], position[how.order]
        rotate = Rotary(position, x_TD.shape[1] // self.blocks[0].attention.heads) if self.rotary else None
        drop = drop_of(self.blocks[i], i, len(self.blocks), tokens, how.order)
        x_TD, _ = self.blocks[i](x_TD, how, rotate, drop=drop)
        return tokens.with_x(x_TD if how.order is None else x_TD[torch.argsort(how.order)])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
