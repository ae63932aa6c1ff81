"""The encoder on one field alone, over padded rows: the trained parts, put together without a list
of tokens.

The flat list of `amodal.nn` has shapes that depend on the data, which a graph for other runtimes
cannot have. Here a batch is (N, L, D) and a mask. It is the same arithmetic; `amodal.export`
measures that it is before it hands out a graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.modalities.shared.base import Exports
from amodal.nn.adapters.skills import Skills
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import projection_towers
from amodal.nn.pooling import AttentionPool, ClsPool
from amodal.nn.positions import Rotary
from amodal.nn.trunks import ALL


def reason_against(encoder: Encoder, field: str) -> str:
    """Why this field cannot be a graph; "" if it can."""
    if not isinstance(encoder, Encoder):
        return "its vectors are those of several encoders end to end"
    if encoder.contextual(field):
        return "it has a pretrained backbone, which its own library exports better"
    if field in projection_towers(encoder):
        return "it has trained blocks behind a locked tower, of which there is no dense form yet"
    if encoder.block_hook is not None and not isinstance(encoder.block_hook, Skills):
        return "tokens are put between the blocks of its trunk, of which there is no dense form yet"
    if encoder.experts:
        return "its trunk sends each token to one of several experts, so shapes depend on values"
    modality = encoder.fields[field]
    return (
        ""
        if isinstance(modality, Exports)
        else f"there is no dense form of {modality.kind} values yet"
    )


class Alone(nn.Module):
    """inputs of the field (see `amodal.modalities.shared.dense`) -> (N, D) vectors in the encoder's
    aligned space."""

    def __init__(self, encoder: Encoder, field: str):
        super().__init__()
        if reason := reason_against(encoder, field):
            raise AmodalError(f"the field {field!r} cannot be exported: {reason}")
        self.field = encoder.fields[field].graph(encoder.tokenizers[field])
        self.field_token, self.position, self.pool = (
            encoder.field_token[field],
            encoder.position,
            encoder.pools[field],
        )
        self.trunk = encoder.trunks[field if encoder.trunk == "separate" else ALL]
        if encoder.block_hook is not None:
            self.trunk = encoder.block_hook.alone(self.trunk, field)
        self.fusion = encoder.routing.fusion_tokens
        self.head = encoder.heads[field] if encoder.heads is not None else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        x_NLD, position, there = self.field(*inputs)
        x_NLD = x_NLD + self.field_token
        if self.position is not None:
            x_NLD = x_NLD + self.position(position)
        if isinstance(self.pool, ClsPool):
            x_NLD, position, there = _beside(
                x_NLD, position, there, self.pool.token.unsqueeze(0), first=True
            )
        length, allowed = x_NLD.shape[1], None
        if self.fusion is not None:
            x_NLD, position, there = _beside(x_NLD, position, there, self.fusion)
            allowed = self._allowed(length)
        x_NLD = self._contextualise(x_NLD, position, there, allowed)[:, :length]
        return self.head(self._pooled(x_NLD, None if there is None else there[:, :length]))

    def _allowed(self, length: int) -> Tensor | None:
        """(L, L) bool: may the one token read the other by the trunk's rule? None if all may."""
        if self.trunk.mask_rule is None:
            return None
        source = torch.cat(
            [
                torch.zeros(length, dtype=torch.int64),
                torch.ones(len(self.fusion), dtype=torch.int64),
            ]
        )
        return self.trunk.mask_rule(("field", FUSED))[source][:, source]

    def _contextualise(
        self, x_NLD: Tensor, position: Tensor, there: Tensor | None, allowed: Tensor | None
    ) -> Tensor:
        mask = None if there is None else there[:, None, None, :]
        if allowed is not None:
            mask = allowed[None, None] if mask is None else mask & allowed
        rotate = (
            Rotary(position, x_NLD.shape[2] // self.trunk.blocks[0].attention.heads)
            if self.trunk.rotary
            else None
        )
        for block in self.trunk.blocks:
            x_NLD = x_NLD + _attend(block.attention, block.norm1(x_NLD), mask, rotate)
            x_NLD = x_NLD + block.down(block.act(block.up(block.norm2(x_NLD))))
        return self.trunk.norm(x_NLD)

    def _pooled(self, x_NLD: Tensor, there: Tensor | None) -> Tensor:
        if isinstance(self.pool, ClsPool):
            return x_NLD[:, 0]
        if isinstance(self.pool, AttentionPool):
            x_NLD = self.pool.norm(x_NLD)
            score_NLH = self.pool.score(x_NLD)
            if there is not None:
                score_NLH = score_NLH.masked_fill(~there.unsqueeze(2), -torch.inf)
            value = self.pool.value(x_NLD).unflatten(2, (self.pool.heads, -1))
            return self.pool.out((value * score_NLH.softmax(1).unsqueeze(3)).sum(1).flatten(1))
        if there is None:
            return x_NLD.mean(1)
        weight = there.unsqueeze(2).to(x_NLD.dtype)
        return (x_NLD * weight).sum(1) / weight.sum(1)


def _attend(
    attention: nn.Module, x_NLD: Tensor, mask: Tensor | None, rotate: Rotary | None
) -> Tensor:
    heads, shared = attention.heads, attention.kv_heads
    q, k, v = (
        attention.qkv(x_NLD)
        .unflatten(2, (heads + 2 * shared, -1))
        .split([heads, shared, shared], 2)
    )
    q, k = attention.q_norm(q), attention.k_norm(k)
    if shared < heads:
        k, v = (t.repeat_interleave(heads // shared, 2) for t in (k, v))
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    mixed = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask)
    return attention.out(mixed.transpose(1, 2).flatten(2))


def _beside(
    x_NLD: Tensor, position: Tensor, there: Tensor | None, extra_FD: Tensor, first: bool = False
):
    """Learned tokens at the origin, put before or after every row's own."""
    added = extra_FD.expand(x_NLD.shape[0], -1, -1)
    origin = position.new_zeros(len(extra_FD), position.shape[-1]).expand(
        *position.shape[:-2], -1, -1
    )
    flags = None if there is None else there.new_ones(1, 1).expand(x_NLD.shape[0], len(extra_FD))
    pairs = [(x_NLD, added, 1), (position, origin, -2)] + (
        [(there, flags, 1)] if there is not None else []
    )
    joined = [torch.cat([b, a] if first else [a, b], axis) for a, b, axis in pairs]
    return joined[0], joined[1], joined[2] if there is not None else None
