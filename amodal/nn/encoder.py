"""The encoder: batch -> tokens -> embeddings, whichever fields a row has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import nn

from amodal.core import Batch, Column, Embeddings, Tokens, field_of
from amodal.core.embeddings import FUSED
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.check_fields import check_fields
from amodal.nn.extend import Extensions
from amodal.nn.pooling import Pool, pool_of
from amodal.nn.positions import additive
from amodal.nn.token_embedding import TokenEmbedding
from amodal.nn.transformer import BlockHook, Collector, size_of
from amodal.nn.trunks import RouterLogitsOf, SourceTokens, kind_of, make_trunks, routing_of


class Encoder(Extensions, TokenEmbedding, Part):
    """Tokenizers, trunks, pools, and heads into a space where sources are compared.

    Args:
        fields: Name -> modality of each field that records may have.
        size: Width, depth and attention heads: nano, tiny, small, base, large, huge.
        trunk: "separate", a transformer a field; "shared"; "joint", of all sources of a row; or a
            pretrained joint one (`amodal.nn.backbones.single_stream`).
        positions, pool: Names, see `amodal.nn.positions.KINDS` and `amodal.nn.pooling.POOLS`.
        backbones: Field -> pretrained backbone (`amodal.nn.backbones`), in place of a tokenizer.
        experts: Experts of every second block, one a token (`amodal.nn.experts`); 0 for none.
        mixer: "attention"; with trunk="separate" also "gru", "brnn" or "dilated" for sequences.
        fusion_tokens, mask_rule, block_hook, layer_scale: See `Extensions`.
        pools, heads, extra_blocks, depths: By field, see `Extensions`; heads_width: of their space.
        similarity: "cosine", or "abs_cosine" where the sign of a vector has no meaning.
        multi_vector, combiner: Vectors for late interaction, and of composed queries.

    Raises:
        AmodalError: For unknown names, and for combinations that do not exist.
    """

    def __init__(
        self,
        fields: Mapping[str, Modality],
        *,
        size: str = "tiny",
        trunk: str | Part = "separate",
        positions: str = "sincos",
        pool: str = "mean",
        backbones: Mapping[str, nn.Module] | None = None,
        experts: int = 0,
        mixer: str = "attention",
        fusion_tokens: int = 0,
        mask_rule: str = "full",
        pools: Mapping[str, Part] | None = None,
        heads: Mapping[str, Part] | None = None,
        heads_width: int = 0,
        similarity: str = "cosine",
        multi_vector: Part | None = None,
        combiner: Part | None = None,
        block_hook: Part | None = None,
        layer_scale: float = 0.0,
        extra_blocks: Mapping[str, Part] | None = None,
        depths: Mapping[str, int] | None = None,
    ):
        super().__init__()
        check_fields(fields, backbones := backbones or {})
        self.fields, self.size, self.trunk = dict(fields), size, kind_of(trunk)
        self.positions, self.pool_name, self.experts, self.mixer = positions, pool, experts, mixer
        self.width, self.num_heads = size_of(size).width, size_of(size).heads
        tokenizers = {f: backbones.get(f) or m.tokenizer(self.width) for f, m in fields.items()}
        self.tokenizers = nn.ModuleDict(tokenizers)
        self.field_token, self.group_token = self.new_offsets(fields), self.new_groups(fields)
        self.position = additive(positions, self.width)
        # tokens of a backbone have seen each other already: such fields need no trunk of their own
        own = {f: m for f, m in fields.items() if f not in backbones}
        self.trunks = make_trunks(
            own, kind=trunk, size=size, positions=positions, experts=experts, mixer=mixer
        )
        self.pools = nn.ModuleDict({f: pool_of(pool, self.width) for f in fields})
        if self.trunk == "joint":  # no "cls" here: `encode` puts class tokens into each source
            self.pools[FUSED] = pool_of("attention" if pool == "attention" else "mean", self.width)
        self.routing = routing_of(trunk, self.width, mask_rule)
        if fusion_tokens:
            self.fuse(fusion_tokens, mask_rule)
        self.heads = self.block_hook = self.relative = None
        self.similarity, self.multi_vector, self.combiner = similarity, multi_vector, combiner
        self.extra_blocks = nn.ModuleDict(extra_blocks or {})
        self.pools.update(pools or {})
        self.set_depths(depths or {}).set_layer_scale(layer_scale).set_bias()
        if heads:
            self.set_heads(heads, heads_width)
        if block_hook is not None:
            self.set_block_hook(block_hook)

    def forward(self, batch: Batch) -> Embeddings:
        """One vector for each source of each row: of the heads, or the features without heads."""
        return self.project(self.features(batch))

    def features(self, batch: Batch) -> Embeddings:
        """Source -> (N, D), of each source alone, whatever its row has; joint: also `fused`."""
        tokens = self.tokenize(batch)
        if self.routing.is_per_source:
            return Embeddings(self.pool(self.encode(tokens)), batch.size)
        alone = {s: self.pool(self.encode({s: part}))[s] for s, part in tokens.items()}
        alone[FUSED] = self.pool(self.encode(tokens))[FUSED]
        return Embeddings(alone, batch.size)

    def project(self, features: Embeddings) -> Embeddings:
        """Features (N, D) -> vectors in the space of the heads, of the sources that have a head."""
        if self.heads is None:
            return features
        heads = {s: self.heads[field_of(s)] for s in features if field_of(s) in self.heads}
        columns = {s: Column(h(features[s].values), features[s].rows) for s, h in heads.items()}
        return Embeddings(columns, features.size)

    def encode(
        self,
        tokens: SourceTokens,
        collect: Collector | None = None,
        router_logits: RouterLogitsOf | None = None,
        block_hook: BlockHook | None = None,
        norms: Mapping[str, nn.Module] | None = None,
    ) -> SourceTokens:
        """Send tokens through trunks and extra blocks; see `TrunkRouting.forward`."""
        prepared = {s: cast(Pool, self.pools[field_of(s)]).prepare(t) for s, t in tokens.items()}
        hook = self.block_hook if block_hook is None else block_hook
        out: SourceTokens = self.routing(self.trunks, prepared, collect, router_logits, hook, norms)
        extra = {s: self.extra_blocks[f] for s in tokens if (f := field_of(s)) in self.extra_blocks}
        return out | {s: blocks(out[s]) for s, blocks in extra.items()}

    def pool(self, context: SourceTokens) -> dict[str, Column]:
        """Source -> (N, D); with a pool of that name also `fused`, of fusion tokens or of all."""
        pooled = {s: self.pools[field_of(s)](part) for s, part in context.items() if s != FUSED}
        if FUSED in self.pools:  # as with a joint trunk
            whole = context[FUSED] if FUSED in context else Tokens.join(list(context.values()))
            pooled[FUSED] = self.pools[FUSED](whole)
        return pooled

    @property
    def space_width(self) -> int:
        """Dimensions of what `forward` gives."""
        return self.heads_width or self.width

    def feature_width(self, field: str) -> int:
        """Dimensions of what `features` gives of a field."""
        pool = self.pools[field]
        return pool.out_width if isinstance(pool, Pool) else self.width
