"""Volumes: three-dimensional scans, such as MR and CT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.core.regular_file import regular
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared import volume_dicom as _dicom
from amodal.modalities.shared import volume_frame as _frame
from amodal.modalities.shared import volume_measure as _measure
from amodal.modalities.shared import volume_nifti as _nifti
from amodal.modalities.shared import volume_patches as _patches
from amodal.modalities.shared import volume_values as _values
from amodal.modalities.shared import volume_views as _views
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    BadValue,
    DecodedValues,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
)
from amodal.modalities.shared.tokenizers.volume import VolumeGraph, VolumeTokenizer
from amodal.modalities.shared.volume_axes import Scan
from amodal.modalities.shared.volume_tiles import VolumeTiles
from amodal.modalities.shared.volume_views import CROPS

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

EXAMPLE_PATCH = 8
MAX_PATCH = 2**16
"""Voxels of a patch."""


@dataclass(frozen=True)
class Volume(VolumeTiles, Modality):
    """A scan in three dimensions: NIfTI, or a folder of DICOM slices.

    A value is voxels with a border that says where they lie, see `shared.volume_frame`. Axes lead
    to the right, front and top (RAS), by flips and exchanges alone: voxels are never resampled.

    Attributes:
        size: voxels of a window along each axis: what training reads of a larger scan, and what
            inference reads at a time.
        patch: voxels of a token along each axis.
        spacing: millimetres between voxels along each axis, the usual one of the field. A token
            says how much larger its own voxels are.
        unit: "HU" for Hounsfield units, which stay as they are, and of which less than -1100 is
            what a scanner filled up, so missing; "" for intensities without a unit.
        by_scan: whether the range of each scan, its percentiles .5 and 99.5, becomes 0 to 1, since
            intensities of MR differ between scanners.
        low, high: intensities beyond them count as they; equal for no limits.
        mean, std: of the intensities within, measured by `infer`.
        frame: which scan of a file of more (4-D), from 0; -1 where there is one.
        flip: whether left and right mean the same, so that views may exchange them.
    """

    size: tuple[int, ...] = (64, 64, 64)
    patch: tuple[int, ...] = (8, 8, 8)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    unit: str = ""
    by_scan: bool = False
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    frame: int = -1
    flip: bool = False

    simple_name: ClassVar[str] = "histogram and block means"
    suffixes: ClassVar[frozenset[str]] = frozenset({".nii", ".nii.gz", *_values.SLICES})
    folder_suffixes: ClassVar[frozenset[str]] = frozenset(_values.SLICES)
    accepts: ClassVar[str] = ".nii,.gz,.dcm,.npy"
    layout: ClassVar[str] = "space"
    at_once: ClassVar[int] = 8
    example_tokens: ClassVar[int] = 216
    axis_names: ClassVar[Mapping[int, str]] = {0: "right", 1: "front", 2: "top"}

    def __post_init__(self) -> None:
        for name in ("size", "patch", "spacing"):
            numbers = getattr(self, name)
            if len(numbers) != 3 or min(numbers) <= 0:
                raise AmodalError(
                    f"volume.{name} is three numbers above 0, to the right, front and top, got "
                    f"{list(numbers)}"
                )
        if any(side % p for side, p in zip(self.size, self.patch)):
            raise AmodalError(
                f"volume.size is whole patches of {list(self.patch)} voxels along each axis, got "
                f"{list(self.size)}"
            )
        if self.unit not in ("", _dicom.HOUNSFIELD):
            raise AmodalError(f'volume.unit is "HU" or "", got {self.unit!r}')
        if self.unit and self.by_scan:
            raise AmodalError("volume.by_scan would take the unit away: leave one of both out")
        if self.std <= 0 or self.high < self.low:
            raise AmodalError(
                f"volume.std is above 0 and volume.high not below low, got {self.std:g}, "
                f"{self.high:g} and {self.low:g}"
            )
        at_most("volume", {"size": (max(self.size), 4096), "frame": (self.frame, 10**6)})
        at_most("volume", {"patch": (math.prod(self.patch), MAX_PATCH)})

    @property
    def suits_small_networks(self) -> bool:
        """See `Modality.suits_small_networks`: none reads patches in space."""
        return False

    @property
    def token_length(self) -> float:
        """See `InSpace`: millimetres of a patch, the geometric mean of its sides."""
        return math.prod(p * step for p, step in zip(self.patch, self.spacing)) ** (1 / 3)

    @classmethod
    def recognises(cls, file: Path | bytes) -> bool:
        """See `Modality.recognises`: NIfTI, a DICOM slice, or a folder of slices."""
        try:
            if isinstance(file, Path) and file.is_dir():
                return bool(_values.slices_in(file))
            if isinstance(file, Path):
                with open(regular(file), "rb") as stream:
                    file = stream.read(4096)
        except (OSError, BadValue):
            return False
        return _dicom.is_slice(file) or _nifti.is_nifti(file)

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Volume:
        """See `Modality.infer`.

        spacing: the median. patch: of about the same millimetres along each axis, 16 along the
        longest side of a scan. size: 8 patches along each axis at most. unit: as DICOM says, or the
        darkest and brightest voxels, of most scans. by_scan: where ranges differ by half or more.
        low, high, mean, std: measured.
        """
        scans = _measure.measured(samples, int(overrides.get("frame", -1)))
        chosen = _measure.chosen(scans, overrides)
        return build(cls, chosen | overrides)

    def decode(self, raw: Raw) -> np.ndarray:
        """(1 + X, 1 + Y, 1 + Z) float32 from a NIfTI file (path or bytes), a folder of DICOM
        slices, {"values": (X, Y, Z), "affine": (4, 4) or "spacing": three numbers}, or an array.

        Any size is read that is not beyond reason; views are windows of it.
        """
        return self._decoded(_values.read(raw, self.frame))

    def _decoded(self, scan: Scan) -> np.ndarray:
        voxels = _values.without_padding(scan.voxels) if self.unit else scan.voxels
        if not np.isfinite(voxels).any():
            raise BadValue("every voxel is missing")
        if self.by_scan:
            low, high = _values.robust_range(voxels)
            voxels = (voxels - low) / (high - low)
        return _frame.framed(voxels, scan.spacing)

    def placed(self, raw: Raw | None) -> tuple[np.ndarray, np.ndarray]:
        """See `Tiled`: the place is the affine."""
        if raw is None:
            raise BadValue("no value")
        scan = _values.read(raw, self.frame)
        return self.bounded(self._decoded(scan)), scan.affine

    def standardised(self, voxels: np.ndarray) -> np.ndarray:
        """Intensities within `low` and `high`, in deviations."""
        if self.high > self.low:
            voxels = voxels.clip(self.low, self.high)
        return (voxels - self.mean) / self.std

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: a window of 70-100 % of each side of `size`, left and right exchanged in half of them
        (`flip`). strong: 50-100 %, intensities scaled and shifted by about a tenth of the
        deviation, noise of .05, a box missing. local: 25-50 %, changed as strong. plain: of a scan
        with more than 4,096 patches, evenly spaced ones remain; others are as they are.
        """
        check_view(view, self.views)
        if view == "plain":
            return _views.thinned(value, self.patch)
        out = _views.crop(value, CROPS[view], self.patch, self.size, rng)
        if self.flip and rng.random() < 0.5:
            out = _frame.mirrored(out)
        return out if view == "weak" else _views.distorted(out, self.mean, self.std, rng)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """Lists of the patches that have a voxel, with their places; see `volume_patches`."""
        return _patches.patches_of(values, self)

    def tokenizer(self, width: int) -> VolumeTokenizer:
        return VolumeTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> nn.Module:
        return VolumeGraph(cast(VolumeTokenizer, tokenizer))

    def targets(self, values: Ragged) -> Tensor:
        """(T, p) standardised voxels of patches, NaN where missing."""
        return values.flat[:, _patches.PLACE :]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, math.prod(self.patch))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) mean squared error over the voxels that exist, in deviations."""
        present = ~target.isnan()
        error = torch.where(present, prediction - target.nan_to_num(), 0.0).square()
        loss: Tensor = error.sum(1) / present.sum(1).clamp(min=1)
        return loss

    def show(self, value: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8: the middle slices from the feet, from the front and from the right."""
        return _values.picture(value, *self.shown_range(value))

    def shown_range(self, value: np.ndarray) -> tuple[float, float]:
        """Intensities that are shown black and white."""
        if self.unit:
            return -160.0, 240.0  # the usual window of the soft tissues
        if self.high > self.low:
            return self.low, self.high
        return _values.robust_range(_frame.voxels_of(value))

    def describe(self, value: np.ndarray) -> str:
        voxels = _frame.voxels_of(value)
        missing = float(np.isnan(voxels).mean())
        steps = " x ".join(f"{step:.3g}" for step in _frame.spacing_of(value))
        parts = [f"{' x '.join(map(str, voxels.shape))} voxels of {steps} mm"]
        return ", ".join(parts + ([f"{missing:.0%} missing"] if missing else []))

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        """Shape, spacing, orientation and share of missing voxels."""
        return _measure.summary(self, raws, values)

    def comment(self, raws: Sequence[Raw]) -> str:
        return _measure.comment(self, raws)

    def as_in(self, here: Any) -> Volume:
        """See `Modality.as_in`: the frame of the data."""
        return replace(self, frame=here.frame) if here.frame >= 0 else self

    def mismatch(self, trained: Modality) -> str:
        """Another spacing, which is never resampled."""
        unread = self.mean == 0 and self.std == 1 and self.spacing == Volume.spacing
        if not isinstance(trained, Volume) or unread:  # no scan could be measured
            return ""
        ratios = [a / b for a, b in zip(self.spacing, trained.spacing)]
        if all(0.8 < ratio < 1.25 for ratio in ratios):
            return ""
        mine, theirs = (" x ".join(f"{s:.3g}" for s in v.spacing) for v in (self, trained))
        return f"voxels of {mine} mm, and the run was trained on {theirs} mm"

    def attributes(self) -> dict[str, Attribute]:
        def mean(value: np.ndarray) -> float:
            return float(np.nanmean(_frame.voxels_of(value)))

        def missing(value: np.ndarray) -> float:
            return float(np.isnan(_frame.voxels_of(value)).mean())

        def litres(value: np.ndarray) -> float:
            count = np.isfinite(_frame.voxels_of(value)).sum()
            return float(count * math.prod(_frame.spacing_of(value)) / 1e6)

        found = {"mean": mean, "missing": missing, "litres": litres}
        return {name: Attribute("number", read) for name, read in found.items()}

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """A histogram of intensities, means of 4 x 4 x 4 blocks, deviation, differences of
        neighbours, the sides in millimetres and the share of missing voxels."""
        low, high = (self.low, self.high) if self.high > self.low else (-1.0, 1.0)
        return _values.statistics(self._one_by_one(raws), low, high)

    def _one_by_one(self, raws: Sequence[Raw]) -> Iterator[np.ndarray]:
        """Decoded values, of which one at a time is in memory."""
        if isinstance(raws, DecodedValues):
            yield from raws.decoded(self)
        else:
            yield from (self.decode_finite(raw) for raw in raws)

    def json_schema(self, limits: Limits) -> Schema:
        return FILE | {"description": "the bytes of .nii, .nii.gz, one .dcm, or .npy of (x, y, z)"}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return _values.checked(raw, limits)

    def parts(self, value: np.ndarray) -> np.ndarray:
        """(1 + X, 1 + Y, 1 + Z): patches; the border is of the first ones."""
        shape = _frame.voxels_of(value).shape
        cells = _patches.cells_of(shape, self.patch)
        x, y, z = (
            np.concatenate([[0], np.arange(side) // p]) for side, p in zip(shape, self.patch)
        )
        grid: np.ndarray = (x[:, None, None] * cells[1] + y[:, None]) * cells[2] + z
        return grid

    def deviation(self, value: np.ndarray) -> np.ndarray:
        out = np.zeros(value.shape)
        out[1:, 1:, 1:] = self.std
        return out

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """Patches of the other scan at the same place of the array; where it has none they stay."""
        sides = [min(a, b) for a, b in zip(value.shape, other.shape)]
        out, part = value.copy(), tuple(slice(1, side) for side in sides)
        out[part] = np.where(hit[part], other[part], value[part])
        return out if np.isfinite(_frame.voxels_of(out)).any() else value

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """NaN in their place."""
        voxels = _frame.voxels_of(value)
        holed = np.where(hit[1:, 1:, 1:], np.float32(np.nan), voxels)
        return _frame.with_voxels(value, holed) if np.isfinite(holed).any() else value

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Volume, Callable[[], np.ndarray]]:
        side = EXAMPLE_PATCH * max(round(tokens ** (1 / 3)), 1)
        made = cls(size=(side,) * 3, patch=(EXAMPLE_PATCH,) * 3)
        return made, lambda: rng.standard_normal((side,) * 3, dtype=np.float32)
