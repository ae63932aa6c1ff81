"""Object coordinates of each point of a picture of points, predicted from all fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, unknown
from amodal.methods.shared.dense import grid_side, maps_of
from amodal.methods.shared.typed_parts import grid_modality
from amodal.modalities.shared.protocols import is_pixel_map
from amodal.nn.encoder import Encoder
from amodal.nn.heads.dense import DenseHead
from amodal.nn.heads.maps import as_large
from amodal.nn.heads.segmenter import DEEP, whole
from amodal.objectives.coordinate_bins import bin_centers


class Coordinates(nn.Module):
    """Logits of the bins of each axis, for each point of the rows that have points.

    Args:
        encoder: Of the fields.
        points: The field of points.
        bins: Of each axis.
        hidden: Width of the head.
    """

    def __init__(self, encoder: Encoder, points: str, bins: int, hidden: int):
        super().__init__()
        self.points, self.bins, self.sides = (
            points,
            bins,
            {s: grid_side(encoder, s) for s in encoder.fields},
        )
        self.side = self.sides[points]
        tile = grid_modality(encoder, points).size // self.side
        self.head = DenseHead(
            len(self.sides) * encoder.width, tile, classes=3 * bins, hidden=hidden
        )

    def forward(self, encoder: Encoder, batch: Batch) -> Column:
        """Logits (N, 3, bins, P) of P pixels, row by row."""
        rows, maps = batch[self.points].rows, maps_of(encoder, batch, self.sides)
        dense = (whole(maps[f"{DEEP}/{s}"], rows, nn.Identity()) for s in self.sides)
        tokens = (
            torch.cat([as_large(x, self.side) for x in dense], 1).permute(0, 2, 3, 1).flatten(0, 2)
        )
        return Column(self.head(tokens, self.side).unflatten(1, (3, self.bins)).flatten(3), rows)

    @torch.no_grad()
    def correspondences(self, encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted coordinates beside the points that they belong to.

        Returns:
            Of the N rows that have points: coordinates (N, P, 3), points (N, P, 3), and whether
            there is a point (N, P).
        """
        predicted = bin_centers(self(encoder, batch).values.argmax(2), self.bins).mT
        return predicted, *point_list(batch[self.points].flat)


def check_fields(encoder: Encoder, points: str, coordinates: str) -> None:
    """Raise AmodalError unless both are fields of pictures of one size with three channels."""
    for field in (points, coordinates):
        if field not in encoder.fields:
            raise unknown(
                "field", field, encoder.fields, "Say which are points and which are coordinates."
            )
        is_grid = is_pixel_map(encoder.fields[field])
        if not is_grid or grid_modality(encoder, field).channels != 3:
            raise AmodalError(
                "x, y and z of each pixel are a square image of three channels, which "
                f"{field!r} is not"
            )
    if grid_modality(encoder, points).size != grid_modality(encoder, coordinates).size:
        raise AmodalError(
            f"{points!r} and {coordinates!r} belong together pixel by pixel and need one size"
        )


def point_list(picture_N3HW: Tensor) -> tuple[Tensor, Tensor]:
    """The points of the P pixels (N, P, 3), and whether there is one (N, P)."""
    points = picture_N3HW.flatten(2).mT
    return points, (points != 0).any(2)


def masked_sum(loss_NP: Tensor, mask_NP: Tensor) -> Tensor:
    """The sum of the losses where the mask is True, and their number (N, 2)."""
    return torch.stack(
        [torch.where(mask_NP, loss_NP, 0).sum(1), mask_NP.sum(1).to(loss_NP.dtype)], 1
    )
