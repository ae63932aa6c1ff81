"""Trained blocks behind a locked tower, for alignment with language.

Jose, Moutakanni, Kang et al., CVPR 2025, arXiv:2412.16334 (dino.txt). The vector holds the class
token beside the mean patch, so a loss on whole images also says what each patch is. Blocks are as
in DINOv2: SwiGLU, layer scale from 1e-5. Theirs are dropped at random in training. These are not: a
pooling does not know the seeds of rows.
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

OUTPUTS = ("both", "cls", "mean")
LAYER_SCALE = 1e-5


class LayerScaleBlock(nn.Module):
    """Pre-norm attention and SwiGLU, each times a learned scale per dimension.

    Scales begin small, so that a new block changes little.
    """

    is_block = True

    def __init__(self, width: int, heads: int):
        super().__init__()
        hidden = (
            -(-width * 8 // 3 // 64) * 64
        )  # SwiGLU has three maps: 8/3 D make it as large as 4 D
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * hidden),
            nn.Linear(hidden, width),
        )
        self.scale1, self.scale2 = (
            nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2)
        )

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """(T, D) -> (T, D), in the order of the layout."""
        return recomputed(self.compute, x_TD, layout)

    def compute(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """`forward`, without gradient checkpointing."""
        x_TD = x_TD + self.scale1 * self.attention(self.norm1(x_TD), layout)
        gate, value = self.up(self.norm2(x_TD)).chunk(2, 1)
        out: Tensor = x_TD + self.scale2 * self.down(silu(gate) * value)
        return out


class ProjectionTower(Part, ClsPool):
    """A pooling with blocks of its own, which see the tokens and the class token of a row.

    Args:
        width: D.
        heads: Of attention.
        blocks: How many; without any, tokens stay as they leave the trunk.
        output: "both" for (2 D) class token, then mean patch; "cls" or "mean" for one of them (D).
        prefix: Tokens before the patches that the tower brings along, a class token and registers;
            0 for a new class token.

    Raises:
        AmodalError: For another output, and for a negative number of blocks.
    """

    def __init__(
        self, width: int, heads: int, *, blocks: int = 2, output: str = "both", prefix: int = 0
    ):
        super().__init__(width)
        if output not in OUTPUTS:
            raise unknown("output of a projection tower", output, OUTPUTS)
        if blocks < 0:
            raise AmodalError(f"a projection tower has 0 blocks or more, not {blocks}")
        self.output, self.width, self.prefix = output, width, prefix
        if prefix:
            self.register_parameter("token", None)
        self.out_width = width * (2 if output == "both" else 1)
        self.blocks = nn.ModuleList(LayerScaleBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width) if blocks else nn.Identity()

    @property
    def patch_slice(self) -> slice:
        """Which dimensions of a vector in this space are about patches."""
        return slice(self.width, None) if self.output == "both" else slice(None)

    def share_token(self, pool: ClsPool) -> None:
        """Use the class token of another pooling, which may be frozen."""
        self.token = pool.token

    def prepare(self, tokens: Tokens) -> Tokens:
        """See `Pool.prepare`; a class token that the tower has is the one."""
        return tokens if self.prefix else super().prepare(tokens)

    def strip(self, tokens: Tokens) -> Tokens:
        """Remove the class token and registers."""
        return tokens.keep(tokens.skeleton().within() >= max(self.prefix, 1))

    def run_blocks(self, tokens: Tokens) -> Tokens:
        """The class token and the patches of each row after the blocks.

        Args:
            tokens: As they leave the trunk, class token first.
        """
        layout = layout_of(tokens)
        x_TD = layout.enter(tokens.x)
        for block in self.blocks:
            x_TD = block(x_TD, layout)
        return tokens.with_x(layout.leave(self.norm(x_TD)))

    def patches(self, tokens: Tokens) -> Tokens:
        """As `run_blocks`, the patches alone.

        They are compared with the dimensions `patch_slice` of the unit vector of a text.
        """
        return self.strip(self.run_blocks(tokens))

    def forward(self, tokens: Tokens) -> Column:
        """Tokens (T, D) -> (N, out_width)."""
        done = self.run_blocks(tokens)
        first, mean = done.first(), self.strip(done).pool()
        parts = {"both": [first.flat, mean.flat], "cls": [first.flat], "mean": [mean.flat]}
        return Column(torch.cat(parts[self.output], 1), first.rows)


def with_projection_tower(
    encoder: Encoder, field: str, *, blocks: int = 2, output: str = "both"
) -> Encoder:
    """Put a projection tower behind a field's tower, before `align_to_towers`.

    A class token that the tower was trained with is taken over, locked or not, and so is that of a
    backbone that gives one (`timm:NAME/class`). Other towers (other poolings, backbones that give
    patches alone) get a new one for the blocks to fill.

    Args:
        encoder: Its trunk must not be joint.
        field: The field.
        blocks, output: See `ProjectionTower`.

    Raises:
        AmodalError: For a joint trunk, and for a new class token without a block to fill it.
    """
    if encoder.trunk == "joint":
        raise AmodalError(
            "a projection tower stands behind the tower of one field; this encoder has "
            'trunk="joint"'
        )
    prefix = encoder.prefix_tokens(field)
    tower = ProjectionTower(
        encoder.width, encoder.num_heads, blocks=blocks, output=output, prefix=prefix
    )
    before = encoder.pools[field]
    trained = before if isinstance(before, ClsPool) and not encoder.contextual(field) else None
    if trained is None and not prefix and not blocks and output != "mean":
        raise AmodalError(
            f"the tower of {field} has no class token; give its projection tower a block, or take "
            "the mean patch alone"
        )
    if trained is not None:
        tower.share_token(trained)
    return encoder.set_pool(field, tower)


def projection_towers(encoder: Encoder) -> dict[str, ProjectionTower]:
    """Field -> its projection tower, of the fields that have one."""
    return {
        field: pool for field, pool in encoder.pools.items() if isinstance(pool, ProjectionTower)
    }


def align_to_towers(encoder: Encoder) -> Encoder:
    """Align all fields in the space of the projection towers.

    Fields with a tower enter the space as they are, the others by a linear map each.

    Raises:
        AmodalError: Without a tower, and for towers of different widths.
    """
    towers = projection_towers(encoder)
    widths = {tower.out_width for tower in towers.values()}
    if len(widths) != 1:
        raise AmodalError(
            f"fields meet in the space of one projection tower, or of towers of one width, not of "
            f"{len(widths)} widths"
        )
    width = widths.pop()
    heads: dict[str, Part] = {
        f: IdentityHead() if f in towers else LinearHead(encoder.width, width)
        for f in encoder.fields
    }
    return encoder.set_heads(heads, width)
