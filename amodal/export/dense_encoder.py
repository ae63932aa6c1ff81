"""The encoder of one field over padded rows: the trained parts, without a flat list of tokens.

The flat list of `amodal.nn` has shapes that depend on the data, which a graph for other runtimes
cannot have. Here a batch is (N, L, D) and a mask. It is the same arithmetic; `amodal.export`
measures that it is before it hands out a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.core.host import constant
from amodal.core.tokens import GROUP
from amodal.modalities.shared.protocols import Exports
from amodal.nn.adapters.skills import Skills
from amodal.nn.attention.varlen import Attention
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.causal_fields import CausalFields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.grouped_trunk import GroupedTrunk
from amodal.nn.fusion.less_trunk import LessTrunk
from amodal.nn.heads.projection_tower import projection_towers
from amodal.nn.pooling import AttentionPool, ClsPool, PerceptronPool, RegisterPool
from amodal.nn.positions import Ground, Rotary
from amodal.nn.transformer import Block, Transformer
from amodal.nn.trunks import ALL

if TYPE_CHECKING:
    import numpy as np

    class FieldGraph(nn.Module):
        """What `Modality.graph` makes, see `amodal.modalities.shared.dense`."""

        inputs: Mapping[str, Any]
        axes: Sequence[dict[int, str]]
        project: nn.Linear
        position: Tensor

        def examples(self, n: int, length: int, rng: np.random.Generator) -> list[Any]: ...


def why_not_exportable(encoder: Encoder, field: str) -> str:
    """Why this field cannot be a graph; "" if it can."""
    if not isinstance(encoder, Encoder):
        return "its vectors are those of an ensemble of encoders, end to end"
    if encoder.contextual(field):
        return _why_no_backbone(encoder, field)
    if field in projection_towers(encoder):
        return "it has trained blocks behind a locked tower, of which there is no dense form yet"
    if isinstance(encoder.block_hook, CausalFields):
        causal = field in encoder.block_hook.fields
        how = "it is read in a causal order" if causal else "learned queries pool its tokens"
        return f"{how}, of which there is no dense form yet"
    if encoder.block_hook is not None and not isinstance(encoder.block_hook, Skills):
        return "tokens are put between the blocks of its trunk, of which there is no dense form yet"
    if encoder.experts:
        return "its trunk routes each token to one of its experts, so shapes depend on values"
    if any(isinstance(trunk, GroupedTrunk) for trunk in encoder.trunks.values()):
        return (
            "its fields have trunks of their own before a common one, of which there is no dense "
            "form yet"
        )
    if any(isinstance(trunk, LessTrunk) for trunk in encoder.trunks.values()):
        return (
            "its cells attend along channels and places of which rows have any number, and there "
            "is no dense form of that yet"
        )
    if encoder.box is not None:
        return "its positions are those of a token in its crop, of which there is no dense form yet"
    if isinstance(encoder.pools[field], RegisterPool):
        return "it has registers beside its class token, of which there is no dense form yet"
    modality = encoder.fields[field]
    if not isinstance(modality, Exports):
        return f"there is no dense form of {modality.kind} values yet"
    return ""


def _why_no_backbone(encoder: Encoder, field: str) -> str:
    """Why the backbone of a field cannot be in a graph; "" if it can."""
    backbone, modality = encoder.tokenizers[field], encoder.fields[field]
    if not (
        isinstance(backbone, Backbone)
        and isinstance(modality, Exports)
        and has_dense(backbone, modality)
    ):
        return "it has a backbone of which there is no dense form; its own library exports it"
    side, size = getattr(backbone.body, "side", 0), getattr(modality, "size", 0)
    if side != size:
        return (
            f"its backbone resizes images from {size} to {side} pixels, which other runtimes do "
            f"otherwise; train with images of {side} pixels, or a backbone of {size}"
        )
    return ""


@runtime_checkable
class HasAttributes(Protocol):
    """A field's graph whose tokens have attributes beside positions."""

    def attributes(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Name -> (N, L), as of `Tokens.attributes`, of the inputs of `forward`."""
        ...


@runtime_checkable
class DenseBody(Protocol):
    """A body of padded signals."""

    def dense(self, x_NLC: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


@runtime_checkable
class DenseSignal(Protocol):
    """A modality that makes steps of padded signals."""

    def dense_steps(self, values_NLC: Tensor, lengths: Tensor) -> Tensor: ...


def has_dense(backbone: Backbone, modality: object) -> bool:
    """Whether there is a graph of a backbone: of values of one size, or of signals."""
    if isinstance(backbone.body.example(), Tensor):
        return True
    return isinstance(backbone.body, DenseBody) and isinstance(modality, DenseSignal)


class NetworkGraph(nn.Module):
    """What dense forms of backbones share: the inputs are those of the field's own tokenizer.

    Args:
        backbone: The trained one.
        modality: Of the field.
    """

    def __init__(self, backbone: Backbone, modality: Exports):
        super().__init__()
        self.body, self.project = backbone.body, backbone.project
        plain = cast("FieldGraph", modality.graph(cast(Any, modality).tokenizer(8)))
        self.inputs, self.axes, self.examples = plain.inputs, plain.axes, plain.examples


class SignalGraph(NetworkGraph):
    """Dense form of a backbone of signals: a `DenseBody`, of a field that is a `DenseSignal`."""

    def __init__(self, backbone: Backbone, modality: Exports):
        super().__init__(backbone, modality)
        self.modality = modality

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `amodal.modalities.shared.dense`."""
        steps_NLC = cast(DenseSignal, self.modality).dense_steps(values, lengths)
        features_NLD, position, mask = cast(DenseBody, self.body).dense(steps_NLC, lengths)
        return self.project(features_NLD), position, mask


class BackboneGraph(NetworkGraph):
    """Dense form of a backbone of values of one size, all of which have one number of tokens."""

    position: Tensor

    def __init__(self, backbone: Backbone, modality: Exports):
        super().__init__(backbone, modality)
        with torch.no_grad():
            self.register_buffer("position", self.body(self.body.example())[2])

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, None]:
        """See `amodal.modalities.shared.dense`."""
        features_TD = self.body(values)[0]
        return self.project(features_TD.unflatten(0, (-1, len(self.position)))), self.position, None


def _graph_of(backbone: Backbone, modality: Exports) -> nn.Module:
    is_signal = not isinstance(backbone.body.example(), Tensor)
    return SignalGraph(backbone, modality) if is_signal else BackboneGraph(backbone, modality)


class DenseEncoder(nn.Module):
    """Inputs of a field (see `amodal.modalities.shared.dense`) -> (N, D) vectors in the encoder's
    aligned space.

    Args:
        encoder: The trained one.
        field: One of its fields.

    Raises:
        AmodalError: If the field has no dense form.
    """

    field: FieldGraph
    field_token: Tensor
    group_token: Tensor | None
    position: nn.Module | None
    pool: nn.Module
    trunk: Transformer | None
    fusion: Tensor | None
    head: nn.Module

    def __init__(self, encoder: Encoder, field: str):
        super().__init__()
        if reason := why_not_exportable(encoder, field):
            raise AmodalError(f"the field {field!r} cannot be exported: {reason}")
        modality = cast(Exports, encoder.fields[field])
        tokenizer, backbone = encoder.tokenizers[field], encoder.contextual(field)
        graph = (
            _graph_of(cast(Backbone, tokenizer), modality)
            if backbone
            else modality.graph(tokenizer)
        )
        self.field = cast("FieldGraph", graph)
        self.name, self.field_token = field, encoder.field_token[field]
        self.group_token = encoder.group_token[field] if field in encoder.group_token else None
        self.pool = encoder.pools[field]
        self.position = None if backbone else encoder.position
        key = field if encoder.trunk == "separate" else ALL
        # a backbone needs no trunk of its own
        trunk = cast(Transformer, encoder.trunks[key]) if key in encoder.trunks else None
        if trunk is not None and isinstance(encoder.block_hook, Skills):
            trunk = encoder.block_hook.alone(trunk, field)
        self.trunk = trunk
        # the table of relative positions, which the bias of the trunk reads, as a part of this one
        self.relative = encoder.relative
        self.fusion = encoder.routing.fusion_tokens
        self.head = encoder.heads[field] if encoder.heads is not None else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        """(N, D)."""
        x_NLD, position, mask = self.field(*inputs)
        x_NLD = x_NLD + self.field_token
        known = self.field.attributes(*inputs) if isinstance(self.field, HasAttributes) else {}
        if self.group_token is not None:
            x_NLD = x_NLD + self.group_token[known[GROUP]]
        if self.position is not None:
            on_ground = isinstance(self.position, Ground)
            x_NLD = x_NLD + self.position(position, *([known] if on_ground else []))
        if isinstance(self.pool, ClsPool):
            token = self.pool.token.unsqueeze(0)
            x_NLD, position, mask = _with_tokens(x_NLD, position, mask, token, first=True)
        length, allowed = x_NLD.shape[1], None
        if self.fusion is not None:
            x_NLD, position, mask = _with_tokens(x_NLD, position, mask, self.fusion)
            allowed = self._allowed(length, len(self.fusion))
        x_NLD = self._encode(x_NLD, position, mask, allowed, self._bias(position))[:, :length]
        out: Tensor = self.head(self._pooled(x_NLD, None if mask is None else mask[:, :length]))
        return out

    def _allowed(self, length: int, fusion: int) -> Tensor | None:
        """(L, L) bool: may one token attend to the other by the trunk's mask rule? None if all
        may."""
        if self.trunk is None or self.trunk.mask_rule is None:
            return None
        field, fused = (
            torch.full((n,), i, dtype=torch.int64) for i, n in ((0, length), (1, fusion))
        )
        source = torch.cat([field, fused])
        rule: Tensor = self.trunk.mask_rule(("field", FUSED))
        return rule[source][:, source]

    def _bias(self, position: Tensor) -> Tensor | None:
        """(N or 1, H, L, L) of the trunk; 0 of a class token and of fusion tokens."""
        if self.trunk is None or self.trunk.bias is None:
            return None
        place = position if position.dim() == 3 else position.unsqueeze(0)
        place = place * constant(self.trunk.bias.units(self.name), place)
        learned = len(self.fusion) if self.fusion is not None else 0
        number = torch.arange(place.shape[1], device=place.device)
        is_placed = (number >= int(isinstance(self.pool, ClsPool))) & (
            number < place.shape[1] - learned
        )
        both = is_placed.unsqueeze(1) & is_placed
        read = self.trunk.bias.bias if self.relative is None else self.relative
        # a mask that learns takes another path through attention, which the exporter cannot follow
        made: Tensor = read(place, place).detach()
        return made.masked_fill(~both, 0.0)

    def _encode(
        self,
        x_NLD: Tensor,
        position: Tensor,
        mask: Tensor | None,
        allowed: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        if self.trunk is None:
            return x_NLD
        attention_mask = None if mask is None else mask[:, None, None, :]
        if allowed is not None:
            attention_mask = (
                allowed[None, None] if attention_mask is None else attention_mask & allowed
            )
        if bias is not None:
            attention_mask = (
                bias if attention_mask is None else bias.masked_fill(~attention_mask, -torch.inf)
            )
        blocks = cast("list[Block]", self.trunk.blocks)
        rotate = None
        if self.trunk.rotary:
            rotate = Rotary(position, x_NLD.shape[2] // blocks[0].attention.heads)
        for block in blocks:
            mixed = _attend(block.attention, block.norm1(x_NLD), attention_mask, rotate)
            x_NLD = x_NLD + block.scale1(mixed)
            x_NLD = x_NLD + block.scale2(block.down(block.act(block.up(block.norm2(x_NLD)))))
        out: Tensor = self.trunk.norm(x_NLD)
        return out

    def _pooled(self, x_NLD: Tensor, mask: Tensor | None) -> Tensor:
        if isinstance(self.pool, ClsPool):
            return x_NLD[:, 0]
        if isinstance(self.pool, AttentionPool):
            x_NLD = self.pool.norm(x_NLD)
            score_NLH = self.pool.score(x_NLD)
            if mask is not None:
                score_NLH = score_NLH.masked_fill(~mask.unsqueeze(2), -torch.inf)
            value = self.pool.value(x_NLD).unflatten(2, (self.pool.heads, -1))
            weighted = (value * score_NLH.softmax(1).unsqueeze(3)).sum(1)
            out: Tensor = self.pool.out(weighted.flatten(1))
            return out
        if mask is None:
            mean_ND = x_NLD.mean(1)
        else:
            weight = mask.unsqueeze(2).to(x_NLD.dtype)
            mean_ND = (x_NLD * weight).sum(1) / weight.sum(1)
        return self.pool.of_mean(mean_ND) if isinstance(self.pool, PerceptronPool) else mean_ND


def _attend(
    attention: Attention, x_NLD: Tensor, mask: Tensor | None, rotate: Rotary | None
) -> Tensor:
    heads, shared = attention.heads, attention.kv_heads
    qkv = attention.qkv(x_NLD).unflatten(2, (heads + 2 * shared, -1))
    q, k, v = qkv.split([heads, shared, shared], 2)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if shared < heads:
        k, v = (t.repeat_interleave(heads // shared, 2) for t in (k, v))
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out: Tensor = attention.out(mixed.transpose(1, 2).flatten(2))
    return out


def _with_tokens(
    x_NLD: Tensor,
    position: Tensor,
    mask: Tensor | None,
    extra_FD: Tensor,
    first: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Learned tokens at the origin, put before or after every row's tokens."""

    def join(row: Tensor, added: Tensor, axis: int) -> Tensor:
        return torch.cat([added, row] if first else [row, added], axis)

    count = len(extra_FD)
    origin = position.new_zeros(count, position.shape[-1]).expand(*position.shape[:-2], -1, -1)
    x = join(x_NLD, extra_FD.expand(x_NLD.shape[0], -1, -1), 1)
    position = join(position, origin, -2)
    if mask is None:
        return x, position, None
    return x, position, join(mask, mask.new_ones(1, 1).expand(x_NLD.shape[0], count), 1)
