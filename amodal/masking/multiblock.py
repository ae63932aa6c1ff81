"""Target blocks, and a context block without them, as in I-JEPA.

Assran et al., CVPR 2023, arXiv:2301.08243, section 3 and figure 4. Departures from the authors'
program: each block has a size of its own (theirs one for a batch, scale and ratio by one draw);
blocks may touch the last row and column, and fill a side (theirs stop one short, so that with 16 x
16 patches the last row and column are never seen); targets that would leave too little are left
out (theirs draw the context's place 20 times, then let the targets overlap with it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.masking.hashing import uniform
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment

Range = tuple[float, float]
_SCALE, _ASPECT, _TOP, _LEFT = range(4)  # one stream of random numbers for each decision


@dataclass(frozen=True)
class Multiblock:
    """How blocks are drawn.

    Attributes:
        blocks: M, target blocks of a group.
        scale: Smallest and largest share of the tokens that a target block covers.
        aspect: Smallest and largest ratio of a target block's height to its width.
        context: As `scale`, of the context block, which is as high as wide.
        least: Tokens that the context has at least; a quarter of the group where that is less.

    Raises:
        AmodalError: For numbers out of range.
    """

    blocks: int = 4
    scale: Range = (0.15, 0.2)
    aspect: Range = (0.75, 1.5)
    context: Range = (0.85, 1.0)
    least: int = 10

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("context", self.context)):
            if not 0 < low <= high <= 1:
                raise AmodalError(
                    f"{name}_low and {name}_high are shares of a grid, above 0 and up to 1, the "
                    f"low one first, not {low} and {high}"
                )
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise AmodalError(f"aspect is two ratios above 0, the low one first, not {self.aspect}")
        for name in ("blocks", "least"):
            if getattr(self, name) < 1:
                raise AmodalError(f"{name} is at least 1, not {getattr(self, name)}")

    def draw(
        self, group_T: Tensor, seed_T: Tensor, order_T: Tensor, position_TP: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Draw the blocks of each group.

        Args:
            group_T, seed_T, order_T: As in `random_keep`.
            position_TP: Three coordinates. A group whose tokens fill a grid in the last two of them
                that vary has rectangles, and tokens that share a cell (the frames of a video) go
                together. Any other lies in a line by `order_T`, and has stretches of it.

        Returns:
            (T,) bool, the context; and M times (T,) bool, the target blocks. They may overlap with
            each other, and never with the context. A block that would leave less than `least` for
            the context is empty. Of two tokens or more at least one is context.

        Raises:
            ValueError: For unequal lengths.
        """
        check_tokens(group_T=group_T, seed_T=seed_T, order_T=order_T, position_TP=position_TP)
        if not len(group_T):
            none = torch.zeros_like(group_T, dtype=torch.bool)
            return none, [none.clone() for _ in range(self.blocks)]
        segment_T, size_G = number_segments(group_T)
        grid = _Grid.of(segment_T, size_G, order_T, position_TP)
        seed_G = torch.zeros_like(size_G).scatter_(0, segment_T, seed_T)
        context_T = grid.block(seed_G, 0, self.context, (1.0, 1.0))
        least_G = (size_G // 4).clamp(1, self.least)
        covered_T, targets = torch.zeros_like(context_T), []
        for number in range(1, self.blocks + 1):
            target_T = grid.block(seed_G, number, self.scale, self.aspect)
            left_G = size_G - grid.count(covered_T | target_T)
            target_T = target_T & (left_G >= least_G)[segment_T]
            covered_T = covered_T | target_T
            targets.append(target_T)
        seen_T = context_T & ~covered_T
        # where the context block has too little left, the context is all that no target covers
        return torch.where((grid.count(seen_T) >= least_G)[segment_T], seen_T, ~covered_T), targets


@dataclass(frozen=True)
class _Grid:
    """Cells of the tokens of each group.

    Attributes:
        segment_T: (T,) the group of each token.
        y_T, x_T: (T,) its cell.
        height_G, width_G: (G,) cells of the groups' grids; a line is one wide.
    """

    segment_T: Tensor
    y_T: Tensor
    x_T: Tensor
    height_G: Tensor
    width_G: Tensor

    @staticmethod
    def of(segment_T: Tensor, size_G: Tensor, order_T: Tensor, position_TP: Tensor) -> _Grid:
        """See `Multiblock.draw`."""
        (t_T, time_G), (y_T, high_G), (x_T, wide_G) = (
            _ranks(segment_T, len(size_G), position_TP[:, axis]) for axis in range(3)
        )
        flat_G = wide_G == 1  # such as spectrograms, whose axes are time and frequency
        y_T, x_T = (
            torch.where(flat_G[segment_T], t_T, y_T),
            torch.where(flat_G[segment_T], y_T, x_T),
        )
        high_G, wide_G = torch.where(flat_G, time_G, high_G), torch.where(flat_G, high_G, wide_G)
        # one number for each cell of each group: torch finds unique numbers faster than columns
        rows, columns = int(high_G.max()), int(wide_G.max())
        cells = torch.unique((segment_T * rows + y_T) * columns + x_T) // (rows * columns)
        full_G = torch.bincount(cells, minlength=len(size_G)) == high_G * wide_G
        line_G = ~(full_G & (high_G > 1) & (wide_G > 1))
        line_T = line_G[segment_T]
        return _Grid(
            segment_T,
            torch.where(line_T, rank_in_segment(segment_T, size_G, order_T), y_T),
            torch.where(line_T, 0, x_T),
            torch.where(line_G, size_G, high_G),
            torch.where(line_G, 1, wide_G),
        )

    def count(self, mask_T: Tensor) -> Tensor:
        """(G,) int64, the tokens of each group where a mask is true."""
        zeros = torch.zeros_like(self.height_G)
        return zeros.index_add(0, self.segment_T, mask_T.to(zeros.dtype))

    def block(self, seed_G: Tensor, number: int, scale: Range, aspect: Range) -> Tensor:
        """(T,) bool, a block of each group, by the `number`-th draw."""

        def between(low: float, high: float, part: int) -> Tensor:
            return low + (high - low) * uniform(seed_G, number, part).double()

        height_G, width_G = self.height_G, self.width_G
        area_G = (height_G * width_G * between(*scale, _SCALE)).floor().clamp(min=1)
        ratio_G = between(*aspect, _ASPECT)
        high_G, wide_G = (area_G * ratio_G).sqrt().round(), (area_G / ratio_G).sqrt().round()
        # what does not fit on one side is made up for on the other
        too_wide, too_high = wide_G >= width_G, high_G >= height_G
        high_G, wide_G = (
            torch.where(
                too_wide, (area_G / width_G).round(), torch.where(too_high, height_G, high_G)
            ),
            torch.where(
                too_wide, width_G, torch.where(too_high, (area_G / height_G).round(), wide_G)
            ),
        )
        inside_T = torch.ones_like(self.segment_T, dtype=torch.bool)
        for place_T, side_G, length_G, part in (
            (self.y_T, height_G, high_G, _TOP),
            (self.x_T, width_G, wide_G, _LEFT),
        ):
            length_G = length_G.clamp(min=1).minimum(side_G)
            first_G = (uniform(seed_G, number, part).double() * (side_G - length_G + 1)).floor()
            away_T = place_T - first_G[self.segment_T]
            inside_T = inside_T & (away_T >= 0) & (away_T < length_G[self.segment_T])
        return inside_T


def _ranks(segment_T: Tensor, segments: int, value_T: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) int64, which of the distinct values of its group each token has, from 0, and (G,) how
    many there are."""
    values, value_T = torch.unique(value_T, return_inverse=True)
    pairs, index_T = torch.unique(segment_T * len(values) + value_T, return_inverse=True)
    count_G = torch.bincount(pairs // len(values), minlength=segments)
    return index_T - (count_G.cumsum(0) - count_G)[segment_T], count_G
