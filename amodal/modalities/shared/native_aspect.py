"""Batches of pictures of any size and aspect: a flat list of patches, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import Ragged
from amodal.modalities.shared import dense as _dense

if TYPE_CHECKING:
    from amodal.modalities.image import Image
    from amodal.modalities.shared.tokenizers.image import ImageTokenizer

PLACE = 2
"""Numbers before the pixels of a patch: its position, y and x."""


def grid_positions(rows: int, columns: int, span: float) -> Tensor:
    """(rows * columns, 2) float32: y and x of the centres of patches.

    Along both axes every picture spans the same range, as the table of positions of NaFlex that is
    interpolated to each picture's own rows and columns (Tschannen et al. 2025, arXiv:2502.14786).

    Args:
        rows, columns: of patches.
        span: patches of the reference grid, on which patch i is at i.
    """
    y, x = ((torch.arange(k) + 0.5) / k * span - 0.5 for k in (rows, columns))
    return torch.cartesian_prod(y, x)


def patches_of(values: Sequence[np.ndarray] | np.ndarray, image: Image) -> Ragged:
    """A batch of pictures.

    Args:
        values: N of (C, H, W), uint8 or float32, H and W whole numbers of tokens.
        image: the field; its `size` is the side of the reference grid.

    Returns:
        Ragged of N lists of patches (2 + C * tile * tile,): position, then pixels, bytes as 0 … 1.
    """
    tile, span = image.tile, image.size / image.tile
    if not len(values):
        empty = torch.zeros(0, PLACE + image.channels * tile**2)
        return Ragged(empty, torch.zeros(0, dtype=torch.int64))
    lists = []
    for value in values:
        pixels = torch.from_numpy(np.ascontiguousarray(value)).float()
        if value.dtype == np.uint8:
            pixels /= 255
        channels, height, width = pixels.shape
        rows, columns = height // tile, width // tile
        tiles = pixels.view(channels, rows, tile, columns, tile).permute(1, 3, 0, 2, 4)
        place = grid_positions(rows, columns, span)
        lists.append(torch.cat([place, tiles.reshape(rows * columns, -1)], 1))
    return Ragged.of(lists)


def standardised(flat: Tensor, image: Image) -> Tensor:
    """(…, 2 + C * tile * tile) -> (…, C * tile * tile): the pixels by mean and deviation."""
    mean, std = (
        flat.new_tensor(numbers).repeat_interleave(image.tile**2) for numbers in image.scale()
    )
    out: Tensor = (flat[..., PLACE:] - mean) / std
    return out


class NativeImageGraph(nn.Module):
    """Dense form of the tokenizer of a field with fit "native": as many tokens as a batch needs."""

    inputs: ClassVar[dict[str, str]] = {
        "patches": "(N, L, 2 + channels * patch * patch) float32: the position y, x of each patch, "
        "then its pixels; anything past the end",
        "lengths": "(N,) int64: patches of each picture, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "patches"}, {0: "batch"})

    def __init__(self, tokenizer: ImageTokenizer):
        super().__init__()
        self.image, self.project = tokenizer.image, tokenizer.project

    def forward(self, patches: Tensor, lengths: Tensor) -> _dense.Tokenised:
        """See `amodal.modalities.shared.dense`."""
        mask_NL = _dense.length_mask(patches, lengths)
        # what pads a batch may be anything, and must not reach a token by way of nan * 0
        patches = torch.where(mask_NL.unsqueeze(2), patches, 0.0)
        position = pad(patches[..., :PLACE], (1, 0))
        return self.project(standardised(patches, self.image)), position, mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of different aspects."""
        tile, side = self.image.tile, self.image.size // self.image.tile
        shapes = [(max(1, side - i % side), side) for i in range(n)]
        return [
            _dense.random_values(self.image.scale(), (h * tile, w * tile), rng).transpose(2, 0, 1)
            for h, w in shapes
        ]
