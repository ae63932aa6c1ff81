"""Rasters in windows: where tokens lie on their grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.raster_values import footprint
from amodal.modalities.shared.rasters import amount_raster, class_raster

Footprint = tuple[str, tuple[float, ...], int, int]
"""Coordinate reference system, transform, height and width."""
NEAR = 0.5
"""Sides of a pixel that corners of one ground may lie apart."""


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

    def other_grid(self, raw: Raw, truth: Raw) -> str:
        """See `Tiled`: by the corners on the ground, since a map may have larger pixels."""
        value, other = (_footprint(one) for one in (raw, truth))
        if value is None or other is None:
            return ""
        pixel = np.hypot(value[1][0], value[1][3])
        if value[0] == other[0]:
            apart = np.abs(_corners(value) - _corners(other)).max()
            if apart <= NEAR * pixel:
                return ""
        return (
            f"the map covers {_named(other)}, and its raster {_named(value)}: bring the map to "
            "the ground of the raster, such as with gdalwarp"
        )


def _footprint(raw: Raw) -> Footprint | None:
    try:
        return footprint(raw)
    except BadValue:  # a picture, which lies nowhere
        return None


def _corners(place: Footprint) -> np.ndarray:
    """(3, 2) coordinates of three corners: the upper left one, and its neighbours."""
    _, (a, b, c, d, e, f), height, width = place
    ends = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1)], dtype=np.float64)
    corners: np.ndarray = ends @ np.array([(a, d), (b, e), (c, f)])
    return corners


def _named(place: Footprint) -> str:
    crs, _, height, width = place
    left, top = _corners(place)[0]
    return f"{height} x {width} pixels from ({left:.10g}, {top:.10g}) in {crs}"
