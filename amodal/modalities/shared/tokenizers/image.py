"""Tokens of `Image`: a linear map of each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.core.host import on_host
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import native_aspect as _native

if TYPE_CHECKING:
    from amodal.modalities.image import Image


class ImageTokenizer(nn.Module):
    """A linear map of each patch, row by row (Dosovitskiy et al., ViT, 2021).

    Args:
        image: the modality.
        width: D of the tokens.
    """

    def __init__(self, image: Image, width: int):
        super().__init__()
        self.image = image
        self.project = nn.Linear(image.channels * image.tile**2, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of images, at the positions (0, y, x) in patches of the full image.

        A smaller local view spans the same range of positions, and so does a picture of any aspect.
        """
        if isinstance(column.values, Ragged):
            return self._native(column.values, column.rows, name, size)
        patches = self.image.patches(column.values)
        n, rows, columns = patches.shape[:3]
        whole = self.image.size / self.image.tile
        # centres of patches, on the full grid on which patch i is at i
        y, x = (
            (torch.arange(k, device=patches.device) + 0.5) / k * whole - 0.5
            for k in (rows, columns)
        )
        grid = torch.cartesian_prod(torch.zeros(1, device=patches.device), y, x)
        lengths = on_host(lambda r: torch.full_like(r, rows * columns), column.rows)
        x_TD = self.project(patches.flatten(0, 2))
        return Tokens.of(x_TD, column.rows, lengths, grid.repeat(n, 1), name, size)

    def _native(self, values: Ragged, rows: Tensor, name: str, size: int) -> Tokens:
        x_TD = self.project(_native.standardised(values.flat, self.image))
        position = nn.functional.pad(values.flat[:, : _native.PLACE], (1, 0))
        return Tokens.of(x_TD, rows, values.lengths, position, name, size)


class ImageGraph(nn.Module):
    """Dense form of `ImageTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "pixels": "(N, channels, size, size) float32: 8-bit pictures divided by 255, others as the "
        "field decodes them"
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch"},)
    position: Tensor

    def __init__(self, tokenizer: ImageTokenizer):
        super().__init__()
        self.image, self.project = tokenizer.image, tokenizer.project
        shape = (1, self.image.channels, self.image.size, self.image.size)
        blank = Column(torch.zeros(shape), torch.zeros(1, dtype=torch.int64))
        self.register_buffer("position", tokenizer(blank, "image", 1).position)

    def forward(self, pixels: Tensor) -> _dense.Tokenised:
        mean, std = (pixels.new_tensor(s).view(-1, 1, 1) for s in self.image.scale())
        tile, side = self.image.tile, self.image.size // self.image.tile
        tiles = ((pixels - mean) / std).reshape(-1, self.image.channels, side, tile, side, tile)
        patches_NLp = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return self.project(patches_NLp), self.position, None

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values."""
        shape = (n, self.image.size, self.image.size)
        return list(_dense.random_values(self.image.scale(), shape, rng).transpose(0, 3, 1, 2))
