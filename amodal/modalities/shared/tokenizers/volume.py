"""Tokens of `Volume`: a linear map of each patch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import volume_patches as _patches

if TYPE_CHECKING:
    from amodal.modalities.volume import Volume


class VolumeTokenizer(nn.Module):
    """A linear map of the voxels of a patch, of the mask of those that exist, and of the size of
    its voxels. A missing voxel counts as the mean.

    Args:
        volume: the modality.
        width: D of the tokens.
    """

    def __init__(self, volume: Volume, width: int):
        super().__init__()
        self.volume = volume
        self.project = nn.Linear(2 * math.prod(volume.patch) + 3, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of scans, at the positions of the centres of patches in millimetres."""
        values = cast(Ragged, column.values)
        x_TD = self.project(features_of(values.flat))
        place = values.flat[:, : _patches.POSITION]
        return Tokens.of(x_TD, column.rows, values.lengths, place, name, size)


def features_of(flat: Tensor) -> Tensor:
    """What the linear map reads.

    Args:
        flat: (…, 6 + p), as `volume_patches.patches_of` makes them.

    Returns:
        (…, 2 p + 3).
    """
    ratio = flat[..., _patches.POSITION : _patches.PLACE]
    return torch.cat([*_patches.voxels_of(flat), ratio], -1)


class VolumeGraph(nn.Module):
    """Dense form of `VolumeTokenizer`: as many tokens as a batch needs."""

    inputs: ClassVar[dict[str, str]] = {
        "patches": "(N, L, 6 + voxels of a patch) float32: millimetres of its centre to the right, "
        "front and top from the centre of the scan; the logarithms of its spacing over that of the "
        "field; its standardised voxels, NaN where missing; anything past the end",
        "lengths": "(N,) int64: patches of each scan, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "patches"}, {0: "batch"})

    def __init__(self, tokenizer: VolumeTokenizer):
        super().__init__()
        self.volume, self.project = tokenizer.volume, tokenizer.project

    def forward(self, patches: Tensor, lengths: Tensor) -> _dense.Tokenised:
        """See `amodal.modalities.shared.dense`."""
        mask_NL = _dense.length_mask(patches, lengths)
        # what pads a batch may be anything
        patches = torch.where(mask_NL.unsqueeze(2), patches, 0.0)
        x_NLD = self.project(features_of(patches))
        return x_NLD, patches[..., : _patches.POSITION], mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of different sides, with gaps."""
        volume, raws = self.volume, []
        for i in range(n):
            cells = max(1, round(max(length - i, 1) ** (1 / 3)))
            shape = [p * cells for p in volume.patch]
            voxels = volume.mean + volume.std * rng.standard_normal(shape, dtype=np.float32)
            gaps = rng.random(shape) < 0.2
            values = np.where(gaps, np.float32(np.nan), voxels)
            raws.append({"values": values, "spacing": volume.spacing})
        return [volume.decode(raw) for raw in raws]
