"""The decoder of LESS ViT's hyperspectral masked autoencoder: a grid of cells with mask tokens
where channels or places are hidden (Si et al. 2025, arXiv:2503.12843)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import field_of
from amodal.core.host import host_copy, to_device
from amodal.nn.channel_grid import ChannelGrid
from amodal.nn.fusion.less_trunk import LessBlocks


class LessDecoder(LessBlocks):
    """Encoded cells of what is seen -> a vector for each token.

    Args:
        fields: Those whose tokens have no wavelength; each has a vector of its own.
        width_in: Of the encoded cells.
        width, depth, heads, channel_width, rank: See `LessBlocks`.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width_in: int,
        *,
        width: int,
        depth: int,
        heads: int,
        channel_width: int,
        rank: int = 1,
    ):
        super().__init__(width, depth, heads, channel_width=channel_width, rank=rank)
        self.in_proj = nn.Linear(width_in, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        # of cells, of class tokens of places, and of those of channels
        self.mask, self.channel_mask, self.spatial_mask = (
            nn.Parameter(torch.randn(width) * 0.02) for _ in range(3)
        )
        self.field = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})

    def forward(
        self, seen_GD: Tensor, seen: ChannelGrid, whole: ChannelGrid, keep: Tensor
    ) -> Tensor:
        """Decode.

        Args:
            seen_GD: Encoded cells of the grid `seen`.
            seen: Of the tokens of `whole` that are seen, in their order.
            whole: Of all tokens, T.
            keep: (T,) bool, on the CPU: which are seen.

        Returns:
            (T, width).
        """
        x_GD = self.in_proj(seen_GD)
        masks = torch.stack([self.mask, self.channel_mask, self.spatial_mask]).to(x_GD.dtype)
        index = to_device(_sources(seen, whole, keep, len(x_GD)), x_GD.device)
        x_GD = torch.cat([x_GD, masks])[index]
        x_GD = x_GD + self._fields(whole).to(x_GD.dtype) + whole.embedded(x_GD)
        return self.run(x_GD, whole)[: len(keep)]

    def _fields(self, grid: ChannelGrid) -> Tensor:
        """(G, width), the vector of the field of each cell, 0 of those with wavelengths and of
        class tokens of places."""
        none = torch.zeros_like(self.mask)
        table = torch.stack([none, *self.field.values()])
        source_T, names = host_copy(grid.tokens.source), [field_of(n) for n in grid.tokens.names]
        fields = [*self.field]
        number = torch.tensor([fields.index(n) + 1 if n in fields else 0 for n in names])
        first_S = grid.channels.first_S
        line_S = torch.zeros_like(first_S)
        real = grid.channels.real_S
        line_S[real] = number.to(torch.int64)[source_T[first_S[real]]]
        return table[to_device(line_S, table.device)[grid.channel_G]]


def _sources(seen: ChannelGrid, whole: ChannelGrid, keep_T: Tensor, cells: int) -> Tensor:
    """(G,) int64, which encoded cell each cell of the whole grid is; of hidden ones the masks that
    stand behind all encoded cells: of cells, of places, of channels."""
    keep_T = keep_T.cpu()
    tokens, places, channels, _ = seen.counts
    begin = tokens, tokens + places, tokens + places + channels
    parts = [torch.where(keep_T, keep_T.cumsum(0) - 1, torch.full((), cells))]
    for number, (line_G, axis) in enumerate(
        ((whole.place_G, whole.places), (whole.channel_G, whole.channels))
    ):
        shown_S = torch.zeros(len(axis.row_S), dtype=torch.bool)
        shown_S[host_copy(line_G)[: len(keep_T)][keep_T]] = True
        # lines of both grids are in the same order, so the seen ones are numbered as they come
        shown = shown_S[axis.real_S]
        hidden = torch.full((), cells + 1 + number)
        parts.append(torch.where(shown, begin[number] + shown.cumsum(0) - 1, hidden))
    rows_whole, rows_seen = (torch.unique(host_copy(grid.row_G)) for grid in (whole, seen))
    parts.append(begin[2] + torch.searchsorted(rows_seen, rows_whole))
    return torch.cat(parts)
