"""LESS ViT: blocks whose attention over channels and places is a Kronecker product of two small
ones (Si et al. 2025, arXiv:2503.12843)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from amodal.core import AmodalError, Tokens, view_of
from amodal.core.embeddings import FUSED
from amodal.core.part import Part
from amodal.core.tokens import zeros_like
from amodal.nn.attention.kronecker import EPS, AxisPool, KroneckerAttention
from amodal.nn.channel_grid import ChannelGrid, grid_of
from amodal.nn.drop_path import Drop, drop_of, identity, side_by_side
from amodal.nn.gradient_checkpointing import recomputed
from amodal.nn.layer_scale import LayerScale
from amodal.nn.transformer import BlockHook, Collector
from amodal.nn.trunks import ALL, RouterLogitsOf, SourceTokens, TrunkRouting


class LessBlock(nn.Module):
    """A block of LESS ViT: cells are pooled along each axis, which attend, and their outer products
    are added to the cells; then a perceptron.

    Args:
        width: D.
        heads: H.
        channel_width: d_c of a head; see `KroneckerAttention`.
        rank: Kronecker products that are added up.

    Raises:
        ValueError: For a width that does not divide.
    """

    is_block = True  # what is sharded, compiled and checkpointed as one

    def __init__(self, width: int, heads: int, *, channel_width: int, rank: int = 1):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.attention = KroneckerAttention(width, heads, channel_width, rank)
        self.channel_pool = AxisPool(width, heads * self.attention.channel_width, heads)
        self.place_pool = AxisPool(width, heads * self.attention.place_width, heads)
        self.scale1, self.scale2 = (LayerScale(width, 1.0) for _ in range(2))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_GD: Tensor, grid: ChannelGrid, drop: Drop = identity) -> Tensor:
        """Cells (G, D) -> cells (G, D). drop: drop path."""
        return recomputed(self.compute, x_GD, grid, drop)

    def compute(self, x_GD: Tensor, grid: ChannelGrid, drop: Drop) -> Tensor:
        """`forward`, without gradient checkpointing."""
        x_GD = x_GD + drop(self.scale1(self.read(self.norm1(x_GD), grid)), 0)
        more = self.scale2(self.down(gelu(self.up(self.norm2(x_GD)))))
        return x_GD + drop(more, 1)

    def read(self, x_GD: Tensor, grid: ChannelGrid) -> Tensor:
        """(G, D), what normed cells read of the others of their row."""
        of_channel, of_place = grid.class_cells
        channel_Sw = self.channel_pool(x_GD, grid.channel_G, of_channel)
        place_Sw = self.place_pool(x_GD, grid.place_G, of_place)
        layouts = grid.channels.layout, grid.places.layout
        made: Tensor = self.attention(channel_Sw, place_Sw, layouts, grid.channel_G, grid.place_G)
        return made


class LessBlocks(nn.Module):
    """Blocks and a norm.

    Args:
        width, heads, channel_width, rank: See `LessBlock`.
        depth: Blocks.
    """

    def __init__(self, width: int, depth: int, heads: int, *, channel_width: int, rank: int = 1):
        super().__init__()
        self.blocks = nn.ModuleList(
            LessBlock(width, heads, channel_width=channel_width, rank=rank) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.apply(initialise)

    def run(self, x_GD: Tensor, grid: ChannelGrid) -> Tensor:
        """Cells (G, D) -> cells (G, D), normed."""
        row = grid.row_G
        cells = Tokens(x_GD[:, :0], row, zeros_like(row), x_GD[:, :0], (FUSED,), grid.tokens.size)
        for i, block in enumerate(self.blocks):
            x_GD = block(x_GD, grid, drop_of(block, i, len(self.blocks), cells, None))
        out: Tensor = self.norm(x_GD)
        return out


class LessTrunk(LessBlocks, Part):
    """The encoder of LESS ViT: class tokens of rows, channels and places beside the tokens, and the
    embeddings of places in metres and of wavelengths.

    Args:
        width, depth, heads, channel_width, rank: See `LessBlocks`.
        radius: Metres within which places attend to each other; 0 for any.
        dateless: Fields that have one date at most, whose tokens have no time.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        channel_width: int,
        rank: int = 1,
        radius: float = 0.0,
        dateless: Sequence[str] = (),
    ):
        super().__init__(width, depth, heads, channel_width=channel_width, rank=rank)
        self.radius, self.dateless = radius, tuple(dateless)
        self.cls, self.channel_cls, self.spatial_cls = (
            nn.Parameter(torch.randn(width) * 0.02) for _ in range(3)
        )

    def routing(self, width: int) -> LessRouting:
        """What sends the tokens of all sources through it."""
        return LessRouting("joint", width)

    def grid(self, tokens: Tokens) -> ChannelGrid:
        """Where the cells of tokens are; see `grid_of`."""
        return grid_of(tokens, self.dateless, self.radius)

    def encode(self, x_TD: Tensor, grid: ChannelGrid) -> Tensor:
        """(G, D), the cells of a grid after the last block and a norm.

        Args:
            x_TD: Content of its tokens.
            grid: Of `grid`.
        """
        x_GD = grid.start(x_TD, self.cls, self.channel_cls, self.spatial_cls)
        return self.run(x_GD + grid.embedded(x_GD), grid)


class LessRouting(TrunkRouting):
    """Sends tokens of all sources through a `LessTrunk`. Its `fused` token is the class token of
    each row."""

    def forward(
        self,
        trunks: nn.ModuleDict,
        tokens: SourceTokens,
        collect: Collector | None = None,
        router_logits: RouterLogitsOf | None = None,
        block_hook: BlockHook | None = None,
        norms: Mapping[str, nn.Module] | None = None,
    ) -> SourceTokens:
        """See `TrunkRouting.forward`."""
        if any(other is not None for other in (collect, router_logits, block_hook, norms)):
            raise AmodalError(
                "nothing can be put into, or read between, the blocks of less_vit, whose cells "
                "attend along channels and places; take --trunk joint"
            )
        trunk = trunks[ALL]
        assert isinstance(trunk, LessTrunk)
        result: SourceTokens = {}
        for names in self._sequences(trunks, tokens)[ALL]:
            whole = Tokens.join([tokens[name] for name in names])
            grid = trunk.grid(whole)
            with side_by_side([view_of(names[0])]):
                x_GD = trunk.encode(whole.x, grid)
            out = whole.with_x(x_GD[: len(whole)])
            result |= {name: out.only(name).renamed(name) for name in names}
            result.setdefault(FUSED, class_tokens(x_GD, grid))
        return {name: result[name] for name in [*tokens, *([FUSED] if FUSED in result else [])]}


def class_tokens(x_GD: Tensor, grid: ChannelGrid) -> Tokens:
    """The class token of each row, as tokens of the source `fused`."""
    rows = grid.row_G[len(grid.row_G) - grid.counts[3] :]
    position = grid.tokens.position.new_zeros(len(rows), grid.tokens.position.shape[1])
    return Tokens(
        x_GD[len(x_GD) - len(rows) :], rows, zeros_like(rows), position, (FUSED,), grid.tokens.size
    )


def initialise(module: nn.Module) -> None:
    """Glorot's weights for a linear map, and no bias, as in the authors' program."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
