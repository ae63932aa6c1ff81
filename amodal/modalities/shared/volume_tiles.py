"""Scans in windows: where tokens lie on their grid, and features as NIfTI on that grid."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from amodal.modalities.shared import volume_frame as frame
from amodal.modalities.shared import volume_grid
from amodal.modalities.shared import volume_nifti as nifti
from amodal.modalities.shared import volume_patches as patches
from amodal.modalities.shared import volume_values as values
from amodal.modalities.shared.base import BadValue, Raw
from amodal.modalities.shared.rasters import UNKNOWN

TAG = "amodal features "
"""How the extension of a file of features begins."""
COMMENT = 6
"""The code of an extension that is text."""
MAX_CLASS = 2**24
"""Class numbers are whole in float32 up to here."""


class VolumeTiles:
    """What a scan has of `protocols.Tiled` and `protocols.WritesFeatures`."""

    size: tuple[int, ...]
    patch: tuple[int, ...]
    frame: int

    features_suffixes: ClassVar[tuple[str, ...]] = (".nii.gz", ".nii")

    @property
    def window_cells(self) -> tuple[int, ...]:
        """See `Tiled`."""
        return tuple(max(side // p, 1) for side, p in zip(self.size, self.patch))

    @property
    def cell_sides(self) -> tuple[int, ...]:
        """See `Tiled`."""
        return self.patch

    def token_cells(self, value: np.ndarray) -> tuple[int, ...]:
        """See `Tiled`."""
        return patches.cells_of(frame.voxels_of(value).shape, self.patch)

    def window(self, value: np.ndarray, corner: Sequence[int]) -> np.ndarray | None:
        """See `Tiled`."""
        starts = [c * p for c, p in zip(corner, self.patch)]
        shape = [n * p for n, p in zip(self.window_cells, self.patch)]
        cut = frame.cut(value, starts, shape)
        return cut if np.isfinite(frame.voxels_of(cut)).any() else None

    def cells(self, window: np.ndarray, position_TP: np.ndarray) -> np.ndarray:
        """See `Tiled`."""
        return patches.places_in(window, position_TP, self.patch)

    def truth(self, raw: Raw, amounts: bool) -> np.ndarray:
        """See `Tiled`: of a file as scans are read, so with axes to the right, front and top."""
        voxels = values.read(raw, self.frame).voxels
        if amounts:
            return voxels.astype(np.float64)
        known = np.isfinite(voxels)
        numbers = np.where(known, voxels, UNKNOWN)
        whole = np.rint(numbers)
        wrong = (np.abs(numbers - whole) > 1e-3) | (whole < 0) | (whole > MAX_CLASS)
        if wrong.any():
            raise BadValue(
                f"a scan of labels is whole numbers from 0 on, and {UNKNOWN} where unknown; this "
                f"one has {float(numbers[wrong].min()):.9g} in {int(wrong.sum()):,} voxels"
            )
        return whole.astype(np.int64)

    def other_grid(self, raw: Raw, truth: Raw) -> str:
        """See `Tiled`."""
        return volume_grid.other_grid(raw, truth, self.frame)

    def features_file(self, grid: np.ndarray, place: Any, made_by: str, suffix: str) -> bytes:
        """See `WritesFeatures`: four-dimensional NIfTI, a volume for each dimension, whose voxels
        are the patches of the scan."""
        nibabel: Any = nifti.library()
        affine = np.array(place, dtype=np.float64)
        middle = [(p - 1) / 2 for p in self.patch]
        affine[:3, 3] += affine[:3, :3] @ middle
        affine[:3, :3] = affine[:3, :3] * np.array(self.patch)
        image = nibabel.Nifti1Image(np.asarray(grid, dtype=np.float32), affine)
        image.header.set_xyzt_units("mm")
        image.header.extensions.append(
            nibabel.nifti1.Nifti1Extension(COMMENT, (TAG + made_by).encode())
        )
        content: bytes = image.to_bytes()
        return gzip.compress(content, 6, mtime=0) if suffix.endswith(".gz") else content

    def features_made_by(self, content: bytes) -> str:
        """See `WritesFeatures`."""
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(content)).read(2**16)
        except OSError:
            data = content[: 2**16]
        start = data.find(TAG.encode())
        if not 348 <= start or not nifti.is_nifti(data):
            return ""
        return data[start + len(TAG) :].split(b"\0")[0].decode("utf-8", "replace")
