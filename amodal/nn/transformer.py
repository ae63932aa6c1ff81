"""One transformer for every kind of data: flat tokens in, flat tokens out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, name_code, unknown
from amodal.core.part import Part
from amodal.masking.hashing import uniform
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.varlen import Attention, Layout, MaskRule, Rotate, layout_of, with_prefix
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


NormLayer = Callable[[int], nn.Module]
"""Width -> a norm over the last dimension."""


class Block(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al. 2021). Returns its output and the MLP's own
    part of it.

    Args:
        width, heads: D and H. mlp_ratio: width of the MLP's hidden layer over D. kv_heads, qk_norm:
        see `Attention`. norm_layer, act_layer: as in timm: width -> a norm; () -> an activation.
        drop_path: chance that a row goes around the attention, and that it goes around the MLP, in
        training (stochastic depth,
            Huang et al. 2016, arXiv:1603.09382). What a row that does not adds is divided by 1 -
            drop_path.
        number: of the block in its trunk, so that each draws its own.
    """

    is_block = True  # what is sharded, compiled and computed anew in the backward pass as one

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        norm_layer: NormLayer = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_path: float = 0.0,
        number: int = 0,
    ):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = norm_layer(width)
        self.attention = Attention(
            width, heads, kv_heads=kv_heads, qk_norm=qk_norm, norm_layer=norm_layer
        )
        self.norm2, self.up, self.down = (
            norm_layer(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )
        self.act = act_layer()
        self.drop_path = DropPath(drop_path, number)

    def forward(
        self,
        x_TD: Tensor,
        layout: Layout,
        rotate: Rotate | None = None,
        router_logits: RouterLogits | None = None,
        drop: Drop = whole,
        seeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_TD: in the order of the layout; seeds: (B,) of the rows, which drop_path needs in
        training."""
        return recomputed(self.compute, x_TD, layout, rotate, drop, seeds)

    def compute(
        self, x_TD: Tensor, layout: Layout, rotate: Rotate | None, drop: Drop, seeds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mixed_TD = drop(self.attention(self.norm1(x_TD), layout, rotate), 0)
        x_TD = x_TD + self.drop_path(mixed_TD, layout, seeds, 0)
        mlp_TD = drop(self.down(self.act(self.up(self.norm2(x_TD)))), 1)
        mlp_TD = self.drop_path(mlp_TD, layout, seeds, 1)
        return x_TD + mlp_TD, mlp_TD


class SparseBlock(nn.Module):
    """The same, but each token's MLP is one of `experts`; the router's logits go into
    `router_logits`, if that is asked for."""

    is_block = True

    def __init__(
        self,
        width: int,
        heads: int,
        experts: int,
        mlp_ratio: float = 4.0,
        *,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        norm_layer: NormLayer = nn.LayerNorm,
        drop_path: float = 0.0,
        number: int = 0,
    ):
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attention = Attention(
            width, heads, kv_heads=kv_heads, qk_norm=qk_norm, norm_layer=norm_layer
        )
        self.norm2, self.mlp = norm_layer(width), Experts(width, int(width * mlp_ratio), experts)
        self.drop_path = DropPath(drop_path, number)

    def forward(
        self,
        x_TD: Tensor,
        layout: Layout,
        rotate: Rotate | None = None,
        router_logits: RouterLogits | None = None,
        drop: Drop = whole,
        seeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x_TD, mlp_TD, logits_TE = recomputed(self.compute, x_TD, layout, rotate, drop, seeds)
        if router_logits is not None:
            router_logits.append(logits_TE)
        return x_TD, mlp_TD

    def compute(
        self, x_TD: Tensor, layout: Layout, rotate: Rotate | None, drop: Drop, seeds: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed_TD = drop(self.attention(self.norm1(x_TD), layout, rotate), 0)
        x_TD = x_TD + self.drop_path(mixed_TD, layout, seeds, 0)
        mlp_TD, logits_TE = self.mlp(self.norm2(x_TD))
        mlp_TD = self.drop_path(drop(mlp_TD, 1), layout, seeds, 1)
        return x_TD + mlp_TD, mlp_TD, logits_TE


class DropPath(nn.Module):
    """A part of a block that some rows go around in training. Which rows follows from their seeds,
    so that micro-batches, processes and a resumed run agree.

    Args:
        rate: chance to go around, from 0 to below 1, else AmodalError.
        number: another number draws independently.
    """

    def __init__(self, rate: float = 0.0, number: int = 0):
        super().__init__()
        if not 0 <= rate < 1:
            raise AmodalError(
                f"drop_path is the chance to leave a part of a block out, from 0 to below 1, not {rate}"
            )
        self.rate, self.number = rate, number

    def forward(self, x_TD: Tensor, layout: Layout, seeds: Tensor | None, half: int) -> Tensor:
        if not (self.rate and self.training):
            return x_TD
        if seeds is None:
            raise AmodalError(
                "drop_path draws from the seeds of rows; call the trunk with `seeds` (Batch.seeds)"
            )
        stays_B = uniform(seeds, name_code("drop_path"), self.number, half) >= self.rate
        scale_B = stays_B.to(x_TD.dtype) / (1 - self.rate)
        return x_TD * scale_B[layout.row].unsqueeze(1)


RouterLogits = list[Tensor]
"""(T, E) router logits of the sparse blocks, first to last."""

Collector = Callable[[list[Tensor], Tokens], Tensor]
"""Collects hidden states: (MLP outputs of every block (T, D), the tokens) -> (T, D'), what to
return instead of the last block's output."""


Prefix = tuple[Tensor, Tensor]
"""Keys and values (B, P, D) that all tokens of a row read in one block, see `with_prefix`."""

BlockHook = Callable[[int, Tokens, Callable[..., Tokens]], Tokens]
"""(number of a block, the tokens before it, the block) -> the tokens after it. The block takes any
tokens, and `prefix`, as `Transformer.block` does. Tokens may be put in and taken out, and those
that entered the trunk must be all that leave it, in their order."""


class CachedLayout:
    """`layout_of` for blocks that follow each other under one rule: made anew only when tokens came
    or went."""

    def __init__(self):
        self.last: tuple[Tokens, Layout] | None = None

    def __call__(self, tokens: Tokens, mask_rule: MaskRule | None = None) -> Layout:
        if self.last is None or not _same_places(self.last[0], tokens):
            self.last = tokens, layout_of(tokens, mask_rule)
        return self.last[1]


def _same_places(a: Tokens, b: Tokens) -> bool:
    return a.row is b.row and a.source is b.source and a.names == b.names


class Transformer(nn.Module):
    """Tokens -> Tokens.

    Args:
        width, depth, heads: D, blocks, H. rotary: rotary positions. mask_rule: which sources may
        read which; None for full attention. experts: every second block, and so the last of an even
        number, is sparse and has so many; 0 for none. kv_heads, qk_norm, norm_layer, act_layer: see
        `Block`. drop_path: of the last block; it grows in equal steps from 0 at the first, as in
        timm.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        rotary: bool = False,
        mask_rule: MaskRule | None = None,
        experts: int = 0,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        norm_layer: NormLayer = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.rotary, self.mask_rule = rotary, mask_rule
        if experts and act_layer is not nn.GELU:
            raise AmodalError("sparse blocks have GELU perceptrons; leave act_layer or experts out")

        def make(i: int) -> nn.Module:
            rate = drop_path * i / max(depth - 1, 1)
            options: dict = {
                "kv_heads": kv_heads,
                "qk_norm": qk_norm,
                "norm_layer": norm_layer,
                "drop_path": rate,
                "number": i,
            }
            if experts and i % 2:
                return SparseBlock(width, heads, experts, **options)
            return Block(width, heads, act_layer=act_layer, **options)

        self.blocks = nn.ModuleList(make(i) for i in range(depth))
        self.norm = norm_layer(width)
        self.apply(_initialise)

    def forward(
        self,
        tokens: Tokens,
        collector: Collector | None = None,
        router_logits: RouterLogits | None = None,
        mask_rule: MaskRule | None = None,
        block_hook: BlockHook | None = None,
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        seeds: Tensor | None = None,
    ) -> Tokens:
        """Tokens of every row after the last block and a norm.

        Args:
            tokens: x (T, D).
            collector: makes what is returned of the MLP outputs of all blocks instead.
            router_logits: a list that is filled with those of the sparse blocks.
            mask_rule: another rule than the transformer's own, for this call.
            block_hook: what is done with the tokens at each block.
            causal: tokens read what stands before them in their row, and themselves.
            cache: what was read before in these rows; these tokens are added to it.
            seeds: (B,) of the rows, which drop_path needs in training.

        Raises: AmodalError for a hook together with what a hook cannot serve.
        """
        if block_hook is not None:
            if (
                collector is not None
                or router_logits is not None
                or causal
                or cache is not None
                or seeds is not None
            ):
                raise AmodalError(
                    "hidden states, router logits, a causal order, a cache and seeds go with trunks that have no block hook"
                )
            return self._hooked(tokens, block_hook, mask_rule)
        layout = layout_of(tokens, mask_rule or self.mask_rule, causal, cache)
        x_TD, rotate = layout.enter(tokens.x), self._rotate(tokens, layout)
        outputs = []
        for i, block in enumerate(self.blocks):
            drop = drop_of(block, i, len(self.blocks), tokens, layout.order)
            x_TD, mlp_TD = block(x_TD, layout, rotate, router_logits, drop, seeds)
            if collector is not None:
                outputs.append(mlp_TD)
        x_TD = self.norm(x_TD)
        if layout.order is not None:
            back = torch.argsort(layout.order)
            x_TD, outputs = x_TD[back], [o[back] for o in outputs]
            if router_logits is not None:
                router_logits[:] = [logits[back] for logits in router_logits]
        return tokens.with_x(x_TD if collector is None else collector(outputs, tokens))

    def _hooked(self, tokens: Tokens, block_hook: BlockHook, mask_rule: MaskRule | None) -> Tokens:
        inner, layout = tokens, CachedLayout()
        for i in range(len(self.blocks)):
            inner = block_hook(i, inner, partial(self.block, i, mask_rule=mask_rule, layout=layout))
        if len(inner) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens entered the trunk and {len(inner)} leave it")
        return tokens.with_x(self.norm(inner.x))

    def _rotate(self, tokens: Tokens, layout: Layout) -> Rotate | None:
        if not self.rotary:
            return None
        return Rotary(
            layout.enter(tokens.position), tokens.x.shape[1] // self.blocks[0].attention.heads
        )

    def block(
        self,
        i: int,
        tokens: Tokens,
        *,
        prefix: Prefix | None = None,
        mask_rule: MaskRule | None = None,
        layout: Callable[[Tokens, MaskRule | None], Layout] | None = None,
    ) -> Tokens:
        """Block `i` alone, without the norm that ends a trunk: for streams that go block by block,
        side by side perhaps.

        Args:
            prefix: keys and values that this block reads besides.
            layout: a `CachedLayout` for each stream spares finding it anew for every block.
        """
        placed = (layout or layout_of)(tokens, mask_rule or self.mask_rule)
        if prefix is not None:
            placed = with_prefix(placed, *prefix)
        drop = drop_of(self.blocks[i], i, len(self.blocks), tokens, placed.order)
        x_TD, _ = self.blocks[i](
            placed.enter(tokens.x), placed, self._rotate(tokens, placed), drop=drop
        )
        return tokens.with_x(placed.leave(x_TD))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class ExtraBlocks(Part, Transformer):
    """More blocks on top of a tower."""

    def __init__(self, width: int, depth: int, heads: int, rotary: bool = False):
        super().__init__(width, depth, heads, rotary=rotary)
