"""Tokens of `Points`: a small PointNet of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import points_groups as _groups

if TYPE_CHECKING:
    from amodal.modalities.points import Points


class GroupNet(nn.Module):
    """Embeds the points of a group, whatever their order.

    The mini-PointNet of Point-BERT (Yu et al., CVPR 2022, arXiv:2111.14819, section 3.1) and
    Point-MAE: a network of each point, the maximum over the group, a second network of each point
    beside that maximum, and the maximum again. Widths are those of the tokens.

    Differs: GELU without batch normalisation, so that no group depends on those of other records.

    Args:
        channels: numbers of a point.
        width: D.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        hidden = max(width // 2, 8)
        self.point = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, width))
        # of the concatenation of a point and its group, each by its own half of the weights
        self.local = nn.Linear(width, width)
        self.whole = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, points: Tensor, present: Tensor) -> Tensor:
        """Embeddings of groups.

        Args:
            points: (..., k, channels), finite.
            present: (..., k) bool, at least one of each group.

        Returns:
            (..., D)
        """
        x = self.point(points)
        # the second network's activation needs no mask: the maximum leaves absent points out
        group = _maximum(x, present)
        x = nn.functional.gelu(self.local(x) + self.whole(group).unsqueeze(-2))
        return _maximum(self.out(x), present)


def _maximum(x: Tensor, present: Tensor) -> Tensor:
    """(..., D), over the points that are there; 0 where none is."""
    least = torch.finfo(x.dtype).min
    found = x.masked_fill(~present.unsqueeze(-1), least).amax(-2)
    return torch.where(present.any(-1, keepdim=True), found, 0.0)


class PointsTokenizer(nn.Module):
    """A `GroupNet` of each group, and a linear map of the logarithm of the cloud's extent.

    Args:
        points: the modality.
        width: D of the tokens.
    """

    def __init__(self, points: Points, width: int):
        super().__init__()
        self.points = points
        self.group = GroupNet(3 + 2 * len(points.channels), width)
        self.extent = nn.Linear(1, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of clouds, at the positions (x, y, z) of the centres of groups."""
        values = cast(Ragged, column.values)
        flat = values.flat
        place = flat[:, : _groups.POSITION]
        x_TD = self.embed(flat)
        return Tokens.of(x_TD, column.rows, values.lengths, place, name, size)

    def embed(self, flat: Tensor) -> Tensor:
        """(…, 4 + k * (3 + C)), as `points_groups.groups_of` makes them -> (…, D)."""
        content = flat[..., _groups.PLACE :].unflatten(-1, (self.points.neighbours, -1))
        present = ~content[..., 0].isnan()
        known = (~content[..., 3:].isnan()).to(flat.dtype)
        points = torch.cat([content.nan_to_num(), known], -1)
        extent = flat[..., _groups.POSITION : _groups.PLACE]
        made: Tensor = self.group(points, present) + self.extent(extent)
        return made


class PointsGraph(nn.Module):
    """Dense form of `PointsTokenizer`: as many tokens as a batch needs."""

    inputs: ClassVar[dict[str, str]] = {
        "groups": "(N, L, 4 + neighbours * (3 + attributes)) float32: x, y and z of the centre of "
        "each group and the logarithm of the cloud's extent, then relative coordinates and "
        "attributes of its points, NaN where there is none; anything past the end",
        "lengths": "(N,) int64: groups of each cloud, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "groups"}, {0: "batch"})

    def __init__(self, tokenizer: PointsTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, groups: Tensor, lengths: Tensor) -> _dense.Tokenised:
        """See `amodal.modalities.shared.dense`."""
        mask_NL = _dense.length_mask(groups, lengths)
        # what pads a batch may be anything
        groups = torch.where(mask_NL.unsqueeze(2), groups, 0.0)
        return self.tokenizer.embed(groups), groups[..., : _groups.POSITION], mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random clouds of different numbers of points."""
        points = self.tokenizer.points
        raws = []
        for i in range(n):
            count = max(1, max(length - i, 1) * points.neighbours // 2)
            raws.append(_dense.random_values(((0.0,) * 3, (1.0,) * 3), (count,), rng))
        return [points.decode(raw) for raw in raws]
