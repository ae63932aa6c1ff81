"""A learned bias of attention by how far a key is from its query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.positions import relative_side

MOST = 1024
"""Rows of the largest table, which has four million numbers of each head."""


class RelativeBias(nn.Module):
    """A table of numbers for each head, read at the difference of the places of query and key.

    As the relative position bias that all blocks of BEiT share (Bao et al. 2021, arXiv:2106.08254,
    after Raffel et al. 2020): one number for each difference of rows and columns. Beside it one for
    each difference of the first coordinate (order in a text, or time), which pictures do not have.
    Differences that are no whole numbers are read between the numbers of the table, linearly;
    those beyond it get its last one. All begin at 0.

    Args:
        heads: H.
        side: Rows and columns, and steps, of the largest difference and one.

    Raises:
        AmodalError: For no side.
    """

    def __init__(self, heads: int, side: int):
        super().__init__()
        if not 1 <= side <= MOST:
            raise AmodalError(f"relative positions reach 1 to {MOST} rows, not {side}")
        self.side = side
        self.plane = nn.Parameter(torch.zeros(heads, 2 * side - 1, 2 * side - 1))
        self.line = nn.Parameter(torch.zeros(heads, 2 * side - 1))

    def forward(self, query_RQP: Tensor, key_RKP: Tensor) -> Tensor:
        """See `amodal.nn.attention.bias.Bias`."""
        time, y, x = (query_RQP.unsqueeze(2) - key_RKP.unsqueeze(1)).unbind(-1)
        return (self._on_plane(y, x) + self._on_line(time)).movedim(0, 1)

    def zero(self) -> Tensor:
        """A zero that is part of the graph, for batches without a token, which read no number."""
        return 0 * (self.plane.sum() + self.line.sum())

    def _on_line(self, far_RQK: Tensor) -> Tensor:
        """(H, R, Q, K)."""
        low, above, part = self._index(far_RQK)
        return torch.lerp(self.line[:, low], self.line[:, above], part)

    def _on_plane(self, y_RQK: Tensor, x_RQK: Tensor) -> Tensor:
        """(H, R, Q, K)."""
        (y, next_y, part_y), (x, next_x, part_x) = self._index(y_RQK), self._index(x_RQK)
        upper, lower = (
            torch.lerp(self.plane[:, row, x], self.plane[:, row, next_x], part_x)
            for row in (y, next_y)
        )
        return torch.lerp(upper, lower, part_y)

    def _index(self, far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers of the entries below and above a difference, and how far between it is."""
        last = 2 * self.side - 2
        place = (far + (self.side - 1)).clamp(0, last)
        # so that the next one exists at the end of the table, where the share is then 1
        low = place.floor().long().clamp(max=max(last - 1, 0))
        return low, (low + 1).clamp(max=last), (place - low).to(self.plane.dtype)


def relative_bias(positions: str, heads: int) -> RelativeBias | None:
    """The table of a kind of positions, `relative` or `relative:SIDE`; None of any other kind."""
    side = relative_side(positions)
    return RelativeBias(heads, side) if side else None
