"""One transformer for every modality: flat tokens in, flat tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens
from amodal.core.part import Part
from amodal.nn.attention.bias import PlaceBias
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.cached_layout import CachedLayout
from amodal.nn.attention.prefix import with_prefix
from amodal.nn.attention.varlen import Attention, Layout, MaskRule, Rotate, layout_of
from amodal.nn.axial import axial_rotary
from amodal.nn.drop_path import Drop, drop_of, identity
from amodal.nn.experts import Experts
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.hidden_dropout import INPUT, dropout_of, then
from amodal.nn.layer_scale import LayerScale, scale_updates
from amodal.nn.positions import Rotary
from amodal.nn.sizes import SIZES as SIZES
from amodal.nn.sizes import Size as Size
from amodal.nn.sizes import size_of as size_of

NormLayer = Callable[[int], nn.Module]
"""Width -> a norm over the last dimension."""


class Block(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al. 2021).

    Args:
        width: D.
        heads: H.
        mlp_ratio: Width of the MLP's hidden layer over D.
        kv_heads, qk_norm: See `Attention`.
        norm_layer: As in timm, width -> a norm.
        act_layer: As in timm, () -> an activation.
    """

    is_block = True  # what is sharded, compiled and checkpointed as one
    up: nn.Module
    down: nn.Module
    scale1: nn.Module
    scale2: nn.Module

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
        self.width, self.scale1, self.scale2 = width, nn.Identity(), nn.Identity()

    def scale_updates(self, value: float) -> None:
        """See `amodal.nn.layer_scale`; factors that are there stay."""
        if not isinstance(self.scale1, LayerScale):
            self.scale1, self.scale2 = (LayerScale(self.width, value) for _ in range(2))

    def forward(
        self,
        x_TD: Tensor,
        layout: Layout,
        rotate: Rotate | None = None,
        router_logits: RouterLogits | None = None,
        drop: Drop = identity,
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x_TD: In the order of the layout.
            layout: How tokens attend.
            rotate: Rotary positions.
            router_logits: For sparse blocks alone.
            drop: Drop path.

        Returns:
            The output (T, D), and the MLP's part of it.
        """
        return recomputed(self.compute, x_TD, layout, rotate, drop)

    def compute(
        self, x_TD: Tensor, layout: Layout, rotate: Rotate | None, drop: Drop
    ) -> tuple[Tensor, Tensor]:
        """`forward`, without gradient checkpointing."""
        x_TD = x_TD + drop(self.scale1(self.attention(self.norm1(x_TD), layout, rotate)), 0)
        # the MLP's part by itself too: data2vec averages it, before the residual, as its targets
        mlp_TD = drop(self.scale2(self.down(self.act(self.up(self.norm2(x_TD))))), 1)
        return x_TD + mlp_TD, mlp_TD


class SparseBlock(nn.Module):
    """As `Block`, but the MLP of each token is one of several experts.

    Args:
        width: D.
        heads: H.
        experts: How many.
        mlp_ratio: Width of an expert's hidden layer over D.
        kv_heads, qk_norm: See `Attention`.
        norm_layer: As in timm, width -> a norm.
    """

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
    ):
        super().__init__()
        self.norm1 = norm_layer(width)
        self.attention = Attention(
            width, heads, kv_heads=kv_heads, qk_norm=qk_norm, norm_layer=norm_layer
        )
        self.norm2, self.mlp = norm_layer(width), Experts(width, int(width * mlp_ratio), experts)

    def forward(
        self,
        x_TD: Tensor,
        layout: Layout,
        rotate: Rotate | None = None,
        router_logits: RouterLogits | None = None,
        drop: Drop = identity,
    ) -> tuple[Tensor, Tensor]:
        """As `Block.forward`; the router's logits (T, E) are appended to `router_logits`."""
        x_TD, mlp_TD, logits_TE = recomputed(self.compute, x_TD, layout, rotate, drop)
        if router_logits is not None:
            router_logits.append(logits_TE)
        return x_TD, mlp_TD

    def compute(
        self, x_TD: Tensor, layout: Layout, rotate: Rotate | None, drop: Drop
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`forward`, without gradient checkpointing; also returns the router's logits."""
        x_TD = x_TD + drop(self.attention(self.norm1(x_TD), layout, rotate), 0)
        mlp_TD, logits_TE = self.mlp(self.norm2(x_TD))
        mlp_TD = drop(mlp_TD, 1)
        return x_TD + mlp_TD, mlp_TD, logits_TE


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


class Transformer(nn.Module):
    """Blocks of attention and a norm: tokens -> tokens.

    Args:
        width: D.
        depth: Blocks.
        heads: H.
        rotary: Rotary positions.
        axial: Axes of rotary positions in a crop, see `amodal.nn.axial`; none for no such.
        mask_rule: Which sources attend to which; None for full attention.
        experts: Of every second block, so also of the last one of an even depth; 0 for none.
        kv_heads, qk_norm, norm_layer, act_layer: See `Block`.

    Raises:
        AmodalError: For experts with another activation than GELU.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        rotary: bool = False,
        axial: Sequence[int] = (),
        mask_rule: MaskRule | None = None,
        experts: int = 0,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        norm_layer: NormLayer = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ):
        super().__init__()
        self.heads, self.rotary, self.mask_rule = heads, rotary, mask_rule
        self.axial = tuple(axial)
        self.bias: PlaceBias | None = None
        if experts and act_layer is not nn.GELU:
            raise AmodalError("sparse blocks have GELU perceptrons; leave act_layer or experts out")

        def make(i: int) -> nn.Module:
            if experts and i % 2:
                return SparseBlock(
                    width,
                    heads,
                    experts,
                    kv_heads=kv_heads,
                    qk_norm=qk_norm,
                    norm_layer=norm_layer,
                )
            return Block(
                width,
                heads,
                kv_heads=kv_heads,
                qk_norm=qk_norm,
                norm_layer=norm_layer,
                act_layer=act_layer,
            )

        self.blocks = nn.ModuleList(make(i) for i in range(depth))
        self.norm = norm_layer(width)
        self.apply(_initialise)

    def set_mask_rule(self, mask_rule: MaskRule | None) -> None:
        """Use another mask rule from now on."""
        self.mask_rule = mask_rule

    def shorten(self, depth: int) -> None:
        """Leave out all blocks after the first so many."""
        self.blocks = self.blocks[:depth]

    def scale_updates(self, value: float) -> None:
        """See `amodal.nn.layer_scale`."""
        for block in self.blocks:
            scale_updates(block, value)

    def set_bias(self, bias: PlaceBias | None) -> None:
        """Add a bias to the logits of all blocks from now on."""
        self.bias = bias

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
        norm: nn.Module | None = None,
    ) -> Tokens:
        """Tokens of every row after the last block and a norm.

        Args:
            tokens: x (T, D).
            collector: Makes x from the MLP outputs of all blocks instead.
            router_logits: A list that is filled with those of the sparse blocks.
            mask_rule: Replaces the transformer's own in this call.
            block_hook: Is called around each block.
            causal: Tokens attend to those before them in their row, and to themselves.
            cache: Tokens of earlier calls in these rows; these tokens are added to it.
            norm: Stands in place of the norm that ends the trunk.

        Raises:
            AmodalError: For a hook together with what a hook cannot serve.
        """
        if block_hook is not None:
            if collector is not None or router_logits is not None or causal or cache is not None:
                raise AmodalError(
                    "hidden states, router logits, a causal order and a cache need a trunk "
                    "without a "
                    "block hook"
                )
            return self._hooked(tokens, block_hook, mask_rule, norm)
        layout = self.lay_out(tokens, mask_rule, causal=causal, cache=cache)
        dropout = dropout_of(self, tokens, layout.order)
        x_TD, rotate = dropout(layout.enter(tokens.x), INPUT), self._rotate(tokens, layout)
        outputs: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            drop = drop_of(block, i, len(self.blocks), tokens, layout.order)
            x_TD, mlp_TD = block(x_TD, layout, rotate, router_logits, then(dropout, i, drop))
            if collector is not None:
                outputs.append(mlp_TD)
        x_TD = (norm or self.norm)(x_TD)
        if layout.order is not None:
            # the inverse of the permutation, computed once for all that leaves
            back = torch.argsort(layout.order)
            x_TD, outputs = x_TD[back], [o[back] for o in outputs]
            if router_logits is not None:
                router_logits[:] = [logits[back] for logits in router_logits]
        return tokens.with_x(x_TD if collector is None else collector(outputs, tokens))

    def lay_out(
        self,
        tokens: Tokens,
        mask_rule: MaskRule | None = None,
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Layout:
        """Which of some tokens attend to which, with the bias; see `forward`."""
        layout = layout_of(tokens, mask_rule or self.mask_rule, causal, cache)
        return self._biased(layout, tokens)

    def _biased(self, layout: Layout, tokens: Tokens) -> Layout:
        return layout if self.bias is None or layout.is_biased else self.bias(layout, tokens)

    def _hooked(
        self, tokens: Tokens, hook: BlockHook, mask_rule: MaskRule | None, norm: nn.Module | None
    ) -> Tokens:
        entry = dropout_of(self, tokens, None)
        inner, layout = tokens.with_x(entry(tokens.x, INPUT)), CachedLayout(self.lay_out)
        for i in range(len(self.blocks)):
            inner = hook(i, inner, partial(self.block, i, mask_rule=mask_rule, layout=layout))
        if len(inner) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens entered the trunk and {len(inner)} leave it")
        return tokens.with_x((norm or self.norm)(inner.x))

    def _rotate(self, tokens: Tokens, layout: Layout) -> Rotate | None:
        head_width = tokens.x.shape[1] // self.heads
        if self.axial:
            return axial_rotary(tokens.attributes, layout.enter, self.axial, head_width)
        return Rotary(layout.enter(tokens.position), head_width) if self.rotary else None

    def block(
        self,
        i: int,
        tokens: Tokens,
        *,
        prefix: Prefix | None = None,
        mask_rule: MaskRule | None = None,
        layout: Callable[[Tokens, MaskRule | None], Layout] | None = None,
    ) -> Tokens:
        """One block, without the norm that ends a trunk, for streams that go block by block.

        Args:
            i: Its number.
            tokens: x (T, D).
            prefix: Keys and values that it attends to besides.
            mask_rule: Replaces the transformer's own.
            layout: A `CachedLayout` for each stream saves computing the layout for every block.
        """
        placed = (layout or self.lay_out)(tokens, mask_rule or self.mask_rule)
        placed = self._biased(placed, tokens)
        if prefix is not None:
            placed = with_prefix(placed, *prefix)
        drop = drop_of(self.blocks[i], i, len(self.blocks), tokens, placed.order)
        x_TD, _ = self.blocks[i](
            placed.enter(tokens.x),
            placed,
            self._rotate(tokens, placed),
            drop=then(dropout_of(self, tokens, placed.order), i, drop),
        )
        return tokens.with_x(placed.leave(x_TD))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class ExtraBlocks(Part, Transformer):
    """More blocks on top of a tower; see `Transformer`."""

    def __init__(
        self, width: int, depth: int, heads: int, rotary: bool = False, axial: Sequence[int] = ()
    ):
        super().__init__(width, depth, heads, rotary=rotary, axial=axial)
