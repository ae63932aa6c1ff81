"""What a locked tower needs to be compared with language: a few trained blocks behind it, and a
vector that holds its class token beside the mean of its patches, so that a loss on the whole also
says what each patch is.

Jose, Moutakanni, Kang et al., CVPR 2025, arXiv:2412.16334 (dino.txt); blocks as in DINOv2: SwiGLU,
layer scale from 1e-5. Their blocks are dropped at random in training, these are not: a pool does
not know its rows' seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from amodal.core import AmodalError, Column, Tokens, unknown
from amodal.core.part import Part
from amodal.nn.attention.varlen import Attention, Layout, layout_of
from amodal.nn.encoder import Encoder
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.heads.linear import IdentityHead, LinearHead
from amodal.nn.pooling import ClsPool

READS = ("both", "cls", "mean")
SMALL = 1e-5


class TailBlock(nn.Module):
    """Pre-norm attention and SwiGLU, each times a learned scale per dimension that begins small, so
    that a new block changes little."""

    is_block = True

    def __init__(self, width: int, heads: int):
        super().__init__()
        hidden = -(-width * 8 // 3 // 64) * 64
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * hidden),
            nn.Linear(hidden, width),
        )
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), SMALL)) for _ in range(2))

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        return recomputed(self.compute, x_TD, layout)

    def compute(self, x_TD: Tensor, layout: Layout) -> Tensor:
        x_TD = x_TD + self.scale1 * self.attention(self.norm1(x_TD), layout)
        gate, value = self.up(self.norm2(x_TD)).chunk(2, 1)
        return x_TD + self.scale2 * self.down(silu(gate) * value)


class ProjectionTower(Part, ClsPool):
    """A pooling: the tokens of a row and its class token go through `blocks` blocks and a norm; its
    vector is (2 D) class token, then mean patch, or with `reads` one of them (D). Without blocks
    tokens stay as the trunk left them."""

    def __init__(self, width: int, heads: int, *, blocks: int = 2, reads: str = "both"):
        super().__init__(width)
        if reads not in READS:
            raise unknown("reading of a tower", reads, READS)
        if blocks < 0:
            raise AmodalError(f"a tail has 0 blocks or more, not {blocks}")
        self.reads, self.width = reads, width
        self.blocks = nn.ModuleList(TailBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width) if blocks else nn.Identity()

    @property
    def out_width(self) -> int:
        return self.width * (2 if self.reads == "both" else 1)

    @property
    def of_patches(self) -> slice:
        """Which dimensions of the vectors of this space speak of patches."""
        return slice(self.width, None) if self.reads == "both" else slice(None)

    def read(self, bag: Tokens) -> Tokens:
        """The class token and the patches of each row behind the blocks. bag: as the trunk left it."""
        layout = layout_of(bag)
        x_TD = layout.enter(bag.x)
        for block in self.blocks:
            x_TD = block(x_TD, layout)
        x_TD = self.norm(x_TD)
        return bag.with_x(layout.leave(x_TD))

    def patches(self, bag: Tokens) -> Tokens:
        """The patches alone, which are to be compared with the dimensions `of_patches` of a text's
        unit vector."""
        return self.strip(self.read(bag))

    def forward(self, bag: Tokens) -> Column:
        read = self.read(bag)
        first, mean = read.first(), self.strip(read).pool()
        parts = {"both": [first.values, mean.values], "cls": [first.values], "mean": [mean.values]}[
            self.reads
        ]
        return Column(torch.cat(parts, 1), first.rows)


def with_projection_tower(
    encoder: Encoder, field: str, *, blocks: int = 2, reads: str = "both"
) -> Encoder:
    """Put a tail behind a field's tower, before `align_to_towers`. A class token that the tower was
    trained with stays what it is, locked or not; a tower without one (other poolings, pretrained
    backbones, which give patches alone) gets a new one, that the blocks fill.

    Raises AmodalError for a trunk in which fields meet, and without blocks for a class token that
    nothing would fill.
    """
    if encoder.trunk == "joint":
        raise AmodalError(
            'a tail stands behind the tower of one field; this encoder has trunk="joint"'
        )
    tail, old = (
        ProjectionTower(encoder.width, encoder.heads_each, blocks=blocks, reads=reads),
        encoder.pools[field],
    )
    trained = isinstance(old, ClsPool) and not encoder.contextual(field)
    if not trained and not blocks and reads != "mean":
        raise AmodalError(
            f"the tower of {field} has no class token; give its tail a block, or take reads='mean'"
        )
    if trained:
        tail.token = old.token
    return encoder.set_pool(field, tail)


def projection_towers(encoder: Encoder) -> dict[str, ProjectionTower]:
    return {
        field: pool for field, pool in encoder.pools.items() if isinstance(pool, ProjectionTower)
    }


def align_to_towers(encoder: Encoder) -> Encoder:
    """Align all fields in the space of the towers that have a tail, which enter it as they are; of
    the others a linear map each. Raises AmodalError where there is no tail, or tails of different
    widths."""
    widths = {tail.out_width for tail in projection_towers(encoder).values()}
    if len(widths) != 1:
        raise AmodalError(
            f"fields meet in the space of one tail, or of several of one width, not of {len(widths)}"
        )
    width, towers = widths.pop(), projection_towers(encoder)
    heads = {
        f: IdentityHead() if f in towers else LinearHead(encoder.width, width)
        for f in encoder.fields
    }
    return encoder.set_heads(heads, width)
