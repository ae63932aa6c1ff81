"""What embeds records: batch -> tokens -> embeddings, for any set of fields and any pattern of
absence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from amodal.core import Batch, Column, Embeddings, Tokens, field_of, unknown
from amodal.core.embeddings import FUSED
from amodal.core.part import Part
from amodal.nn.attention.masks import rule
from amodal.nn.extend import Extensions, check_fields
from amodal.nn.pooling import pool_of
from amodal.nn.positions import additive
from amodal.nn.transformer import BlockHook, Collector, size_of
from amodal.nn.trunks import ALL, Bags, TrunkRouting, make_trunks


class Encoder(Extensions, Part):
    """Tokenizers, trunks, pools, and heads into a space where sources are compared.

    Args:
        fields: name -> modality (see `amodal.modalities`), what the records may hold. size: The one
        dial: nano, tiny, small, base, large, huge. trunk: "separate", a transformer for each field;
        "shared", one that sees one source at a time; "joint", one that sees all
            sources of a row together.
        positions: "sincos", "learned", "rotary" or "none". pool: "mean", "cls", "attention",
        "vector" or "gem". backbones: field -> a pretrained backbone (see
        `amodal.nn.backbones.pretrained`) in place of that field's tokenizer. experts: How many
        perceptrons each token has to choose from in every second block (see `amodal.nn.experts`);
        0: all share one. mixer: "attention", or "gru" or "brnn": sequences (text, sound, …) are
        read by a recurrent trunk, with trunk="separate". fusion_tokens, mask_rule: See `fuse`.
        pools, heads, extra_blocks: field -> Part in place of, or beside, what follows from the
        above. similarity: What "near" means for two vectors: "cosine", or "abs_cosine" where signs
        mean nothing. multi_vector: How to make several vectors of a value, for late interaction
        (see `amodal.nn.multi_vector`). combiner: Makes one vector of a reference and a change to it
        (see `amodal.nn.fusion.combiner`). block_hook: A Part that is called around each block of
        the trunks (see `amodal.nn.transformer.BlockHook`).

    Raises:
        AmodalError: For unknown names, fields that cannot be called so, and combinations that make
        no sense.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        *,
        size: str = "tiny",
        trunk: str = "separate",
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
        extra_blocks: Mapping[str, Part] | None = None,
    ):
        super().__init__()
        backbones = backbones or {}
        check_fields(fields, backbones)
        self.fields, self.size, self.trunk, self.positions, self.pool_name = (
            dict(fields),
            size,
            trunk,
            positions,
            pool,
        )
        self.experts, self.mixer = experts, mixer
        self.width, self.heads_each = size_of(size).width, size_of(size).heads
        self.tokenizers = nn.ModuleDict(
            {f: backbones.get(f) or m.tokenizer(self.width) for f, m in fields.items()}
        )
        self.field_token = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(self.width) * 0.02) for f in fields}
        )
        self.position = additive(positions, self.width)
        sequences = {
            f: mixer != "attention" and m.is_sequence
            for f, m in fields.items()
            if f not in backbones
        }
        rotary = positions == "rotary"
        self.trunks = make_trunks(
            sequences, kind=trunk, size=size, rotary=rotary, experts=experts, mixer=mixer
        )
        self.pools = nn.ModuleDict({f: pool_of(pool, self.width) for f in fields})
        if trunk == "joint":
            self.pools[FUSED] = pool_of("attention" if pool == "attention" else "mean", self.width)
        self.routing = TrunkRouting(trunk, self.width, fusion_tokens, mask_rule)
        if fusion_tokens:
            self.trunks[ALL].mask_rule = rule(mask_rule)
        self.heads: nn.ModuleDict | None = None
        self.similarity, self.multi_vector, self.combiner = similarity, multi_vector, combiner
        self.block_hook: nn.Module | None = None
        self.extra_blocks = nn.ModuleDict(extra_blocks or {})
        self.pools.update(pools or {})
        if heads:
            self.set_heads(heads, heads_width)
        if block_hook is not None:
            self.set_block_hook(block_hook)

    def forward(self, batch: Batch) -> Embeddings:
        """One vector for each source of each row, in the space of the heads (its features, if there
        are no heads)."""
        return self.project(self.features(batch))

    def features(self, batch: Batch) -> Embeddings:
        """One vector (D) for each source of each row, seen alone; with a joint trunk also `fused`,
        of all sources together."""
        tokens = self.tokenize(batch)
        if self.routing.reads_alone:
            return Embeddings(self.pool(self.encode(tokens)), batch.size)
        alone = {s: self.pool(self.encode({s: part}))[s] for s, part in tokens.items()}
        alone[FUSED] = self.pool(self.encode(tokens))[FUSED]
        return Embeddings(alone, batch.size)

    def project(self, features: Embeddings) -> Embeddings:
        """Features in the space of the heads, of those sources that have one."""
        if self.heads is None:
            return features
        heads = {s: self.heads[field_of(s)] for s in features if field_of(s) in self.heads}
        columns = {
            s: Column(head(features[s].values), features[s].rows) for s, head in heads.items()
        }
        return Embeddings(columns, features.size)

    def tokenize(self, batch: Batch) -> Bags:
        """source -> tokens that carry content, position and field."""
        return {
            source: self.add_positions(tokens) for source, tokens in self.patchify(batch).items()
        }

    def patchify(self, batch: Batch) -> Bags:
        """source -> tokens that carry content alone."""
        for source in batch.sources:
            if field_of(source) not in self.tokenizers:
                raise unknown("field of this encoder", field_of(source), self.tokenizers)
        return {
            s: self.tokenizers[field_of(s)](column, s, batch.size)
            for s, column in batch.columns.items()
        }

    def add_positions(self, tokens: Tokens) -> Tokens:
        """Add to the tokens of one source the embeddings of their field and of their position."""
        field = field_of(tokens.names[0])
        x_TD = tokens.x + self.field_token[field]
        if self.position is not None and not self.contextual(field):
            x_TD = x_TD + self.position(tokens.position).to(x_TD.dtype)
        return tokens.with_x(x_TD)

    def encode(
        self,
        tokens: Bags,
        collect: Collector | None = None,
        router_logits: dict[tuple[str, int], Bags] | None = None,
        block_hook: BlockHook | None = None,
    ) -> Bags:
        """Send tokens through the trunks; see `amodal.nn.trunks.TrunkRouting.forward`. block_hook:
        the encoder's own unless given."""
        prepared = {s: self.pools[field_of(s)].prepare(part) for s, part in tokens.items()}
        hook = self.block_hook if block_hook is None else block_hook
        result = self.routing(self.trunks, prepared, collect, router_logits, hook)
        blocks = {
            s: self.extra_blocks[field_of(s)] for s in tokens if field_of(s) in self.extra_blocks
        }
        return result | {s: block(result[s]) for s, block in blocks.items()}

    def pool(self, context: Bags) -> dict[str, Column]:
        """source -> (N, D). With a joint trunk also `fused`: of the fusion tokens if there are any,
        else of all tokens."""
        pooled = {s: self.pools[field_of(s)](tokens) for s, tokens in context.items() if s != FUSED}
        if self.trunk == "joint":
            whole = context[FUSED] if FUSED in context else Tokens.join(list(context.values()))
            pooled[FUSED] = self.pools[FUSED](whole)
        return pooled

    def contextual(self, field: str) -> bool:
        """Whether this field's tokens have already seen each other, as those of a pretrained
        backbone have."""
        return getattr(self.tokenizers[field], "contextual", False)

    @property
    def space_width(self) -> int:
        """Dimensions of the space of the heads, or of the features if there are none."""
        return self.heads_width or self.width

    def feature_width(self, field: str) -> int:
        """Dimensions of the features of a field."""
        return getattr(self.pools[field], "out_width", self.width)
