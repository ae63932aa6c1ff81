"""Rasters in windows: where tokens lie on their grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.modalities.shared.base import Raw
from amodal.modalities.shared.rasters import amount_raster, class_raster


class RasterTiles:
    """What a raster has of `protocols.Tiled`."""

    size: int

    @property
    def tile(self) -> int:
        """Side of a token in pixels."""
        raise NotImplementedError

    @property
    def window_cells(self) -> tuple[int, ...]:
        """See `Tiled`."""
        return (max(self.size // self.tile, 1),) * 2

    @property
    def cell_sides(self) -> tuple[int, ...]:
        """See `Tiled`."""
        return (self.tile,) * 2

    def token_cells(self, value: np.ndarray) -> tuple[int, ...]:
        """See `Tiled`."""
        return tuple(-(-side // self.tile) for side in value.shape[2:])

    def window(self, value: np.ndarray, corner: Sequence[int]) -> np.ndarray | None:
        """See `Tiled`."""
        y, x = (
            slice(at * self.tile, (at + count) * self.tile)
            for at, count in zip(corner, self.window_cells)
        )
        cut = value[:, :, y, x]
        return cut if np.isfinite(cut[:, 1:]).any() else None

    def cells(self, window: np.ndarray, position_TP: np.ndarray) -> np.ndarray:
        """See `Tiled`."""
        return position_TP[:, 1:].round().astype(np.int64)

    def truth(self, raw: Raw, amounts: bool) -> np.ndarray:
        """See `Tiled`."""
        return amount_raster(raw) if amounts else class_raster(raw)
