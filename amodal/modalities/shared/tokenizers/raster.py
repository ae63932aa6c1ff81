"""Tokens of `Raster`: a linear map of each patch of each date."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from amodal.core import Column, Ragged, Tokens
from amodal.core.tokens import DATE, GROUP, METRES
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import raster_patches as _patches
from amodal.modalities.shared.tokenizers.resized import resized_weights

if TYPE_CHECKING:
    from amodal.modalities.raster import Raster


class RasterTokenizer(nn.Module):
    """A linear map of the pixels of a patch, all bands of one date or those of one group of bands,
    and of the mask of those that exist. A missing pixel counts as the mean of its band.

    Patches of another side than the modality's, which `Raster.patches` allows, are read by resized
    weights.

    Args:
        raster: the modality.
        width: D of the tokens.
    """

    def __init__(self, raster: Raster, width: int):
        super().__init__()
        self.raster = raster
        self.project = nn.Linear(2 * len(raster.bands) * raster.tile**2, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of rasters, at the positions (month, row, column of the patch).

        Their attributes are `DATE`, `METRES` where the resolution is known, and `GROUP` where bands
        have groups.
        """
        values = cast(Ragged, column.values)
        flat, raster = values.flat, self.raster
        side = _patches.side_of(flat, raster)
        weight_DC = resized_weights(self.project.weight, raster.tile, side)
        x_TD = linear(torch.cat(_patches.pixels_of(flat), 1), weight_DC, self.project.bias)
        place = flat[:, : _patches.POSITION]
        known = attributes_of(flat, raster)
        return Tokens.of(x_TD, column.rows, values.lengths, place, name, size, known)


def attributes_of(flat: Tensor, raster: Raster) -> dict[str, Tensor]:
    """What tokens have beside positions: `DATE`, `METRES`, `GROUP`.

    Args:
        flat: (…, 4 + n), as `raster_patches.patches_of` makes them.
        raster: the field.

    Returns:
        Name -> (…,).
    """
    known = {DATE: flat[..., _patches.POSITION]}
    if raster.resolution:
        metres = raster.resolution * _patches.side_of(flat, raster)
        known[METRES] = torch.full_like(known[DATE], metres)
    if raster.token_groups:
        known[GROUP] = _patches.groups_of(flat, raster)
    return known


class RasterGraph(nn.Module):
    """Dense form of `RasterTokenizer`: as many tokens as a batch needs."""

    inputs: ClassVar[dict[str, str]] = {
        "patches": "(N, L, 4 + bands * patch * patch) float32: month, row and column of each "
        "patch, its month once more or NaN where unknown, then its standardised pixels, NaN where "
        "missing; anything past the end",
        "lengths": "(N,) int64: patches of each raster, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "patches"}, {0: "batch"})

    def __init__(self, tokenizer: RasterTokenizer):
        super().__init__()
        self.raster, self.project = tokenizer.raster, tokenizer.project

    def forward(self, patches: Tensor, lengths: Tensor) -> _dense.Tokenised:
        """See `amodal.modalities.shared.dense`."""
        mask_NL = _dense.length_mask(patches, lengths)
        # what pads a batch may be anything
        patches = torch.where(mask_NL.unsqueeze(2), patches, 0.0)
        x_NLD = self.project(torch.cat(_patches.pixels_of(patches), 2))
        return x_NLD, patches[..., : _patches.POSITION], mask_NL

    def attributes(self, patches: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Those of `RasterTokenizer`, (N, L) each; anything past the end."""
        mask_NL = _dense.length_mask(patches, lengths)
        patches = torch.where(mask_NL.unsqueeze(2), patches, 0.0)
        return attributes_of(patches, self.raster)

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of different sides, up to the largest, with gaps."""
        tile, longest = self.raster.tile, max(self.raster.size // self.raster.tile, 1)
        raws = []
        for i in range(n):
            side = tile * min(max(1, round(max(length - i, 1) ** 0.5)), longest)
            pixels = _dense.random_values(self.raster.scale(), (1, side, side), rng)
            gaps = rng.random(pixels.shape) < 0.2
            raws.append(np.where(gaps, np.float32(np.nan), pixels).transpose(0, 3, 1, 2))
        return [self.raster.decode(raw) for raw in raws]
